"""The shared-prompt model must be lm-eval's `hf` model, only faster."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import GenerationConfig

from harness.contracts import Request
from harness.errors import InputError, RecipeError
from harness.evaluation import lm_eval_model as lm_model
from harness.evaluation.lm_eval_model import SharedPromptLM
from harness.lm.decoding import cache_bytes, decode
from harness.lm.prefix_forward import PrefixForward
from harness.lm.prefix_tree import Row, layout
from harness.lm.seeded_sampling import SeededNoise
from tests.checkpoints import MACHINE
from tests.tiny_checkpoints import byte_checkpoint, gpt2_checkpoint

QUESTIONS = [
    ("Question: which is a fruit?\nAnswer:", [" apple", " a heavy stone", " x", " the sky"]),
    ("Question: two and two?\nAnswer:", [" A", " B", " C", " D"]),
    ("The trailing space moves to the ending: ", ["one", "three"]),
    ("", ["an empty context is the end token", "another"]),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_checkpoint(tmp_path_factory.mktemp("model"), max_length=64)


def _requests(kind: str, arguments: list[tuple[object, object]]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=pair, idx=i) for i, pair in enumerate(arguments)]


def test_scores_equal_those_of_lm_eval(checkpoint: Path) -> None:
    """Log-probabilities agree to 1e-4 nats and greedy flags exactly, also for contexts cut at the model's length."""
    long = ("many words " * 8 + "\nAnswer:", [" short", " a longer ending than the other one"])
    pairs = [(context, ending) for context, endings in [*QUESTIONS, long] for ending in endings]
    theirs = HFLM(pretrained=str(checkpoint), device="cpu", dtype="float32", batch_size=3, add_bos_token=False)
    ours = SharedPromptLM(checkpoint, "fp32", "cpu", 3, seed=0)
    expected = theirs.loglikelihood(_requests("loglikelihood", pairs), disable_tqdm=True)
    found = ours.loglikelihood(_requests("loglikelihood", pairs))
    assert [logp for logp, _ in found] == pytest.approx([logp for logp, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_greedy_text_equals_that_of_lm_eval(checkpoint: Path) -> None:
    """Greedy generation, stop strings and the token cap are lm-eval's own."""
    settings = {"until": ["e"], "max_gen_toks": 12, "do_sample": False, "temperature": 0.0}
    requests = [(context, settings) for context, _ in QUESTIONS[:3]]
    theirs = HFLM(pretrained=str(checkpoint), device="cpu", dtype="float32", batch_size=2, add_bos_token=False)
    ours = SharedPromptLM(checkpoint, "fp32", "cpu", 2, seed=0)
    expected = theirs.generate_until(_requests("generate_until", requests), disable_tqdm=True)
    assert ours.generate_until(_requests("generate_until", requests)) == expected


@pytest.mark.parametrize("kind", ["loglikelihood", "generate_until"])
def test_an_interrupted_task_asks_only_for_what_is_missing(kind: str, checkpoint: Path, tmp_path: Path) -> None:
    """After a kill in the middle the answers are those of an undisturbed run, bit for bit, and what was answered is not asked again."""
    settings = {"until": ["e"], "max_gen_toks": 6, "do_sample": False}
    endings = [(f"{i} is a question of some length:", ending) for i in range(60) for ending in (" yes", " no")]
    requests = _requests(kind, endings if kind == "loglikelihood" else [(context, settings) for context, _ in endings])
    whole = SharedPromptLM(checkpoint, "fp32", "cpu", 1, seed=0, workspace=tmp_path / "whole")
    expected = getattr(whole, kind)(requests)
    (kept,) = (tmp_path / "whole").glob("*.jsonl")
    lines = kept.read_bytes().splitlines(keepends=True)
    assert len(lines) > 2
    kept.write_bytes(b"".join(lines[:2]) + lines[2][:-9])
    again = SharedPromptLM(checkpoint, "fp32", "cpu", 1, seed=0, workspace=tmp_path / "whole")
    assert getattr(again, kind)(requests) == expected
    assert 0 < again.asked < whole.asked


@pytest.mark.parametrize("make", [byte_checkpoint, gpt2_checkpoint], ids=["shared prompts", "plain path"])
def test_replicas_answer_as_one_process_does(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """Two replicas give the answers of one process, bit for bit, scored, greedy and sampled; a re-run asks none of them."""
    folder = make(tmp_path / "model")
    endings = [(f"{i} is a question of some length:", ending) for i in range(40) for ending in (" yes", " no")]
    sampled = {"until": ["e"], "max_gen_toks": 6, "do_sample": True, "temperature": 1.0}
    greedy = {"until": ["e"], "max_gen_toks": 6, "do_sample": False}
    texts = [(context, settings) for settings in (sampled, greedy) for context, _ in endings[::2]]

    def answers(lm: SharedPromptLM) -> list[object]:
        return [lm.loglikelihood(_requests("loglikelihood", endings)), lm.generate_until(_requests("generate_until", texts))]

    machine = MACHINE.model_copy(update={"num_replicas": 2})
    expected = answers(SharedPromptLM(folder, "fp32", "cpu", 1, seed=0))
    for asked in (len(endings) + len(texts), 0):
        lm = SharedPromptLM(folder, "fp32", "cpu", 1, seed=0, workspace=tmp_path / "answers", machine=machine)
        assert answers(lm) == expected
        assert lm.asked == asked


def test_answers_are_never_served_to_another_model_or_seed(checkpoint: Path, tmp_path: Path) -> None:
    """A model of other weights, and another seed, ask everything again although the workspace is the same."""
    other = byte_checkpoint(tmp_path / "other", max_length=64, seed=1)
    requests = _requests("loglikelihood", [("a context:", " x"), ("a context:", " y")])
    asked = []
    for model, seed in ((checkpoint, 0), (other, 0), (checkpoint, 1), (checkpoint, 0)):
        lm = SharedPromptLM(model, "fp32", "cpu", 1, seed=seed, workspace=tmp_path / "answers")
        lm.loglikelihood(requests)
        asked.append(lm.asked)
    assert asked == [2, 2, 2, 0]


def test_answers_of_another_grouping_are_asked_again(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are kept by the unit: where the units are cut otherwise, none is taken for another's."""
    monkeypatch.setitem(lm_model.ROW_TOKENS, "cpu", 30)
    settings = {"until": ["e"], "max_gen_toks": 6, "do_sample": False}
    requests = _requests("generate_until", [(f"{i} is a question of some length:", settings) for i in range(9)])
    asked = []
    for rows in (4, 2, 4):
        monkeypatch.setattr(lm_model, "DECODED_ROWS", rows)
        lm = SharedPromptLM(checkpoint, "fp32", "cpu", 1, seed=0, workspace=tmp_path)
        lm.generate_until(requests)
        asked.append(lm.asked)
    assert asked == [9, 9, 0]


def test_questions_are_decoded_together_as_far_as_memory_is_granted(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one where a second would not fit; what they share is not counted; a larger batch takes more."""
    sizes: list[int] = []

    def counted(forward: PrefixForward, rows: list[Row], *rest: Any) -> dict[int, list[int]]:
        sizes.append(sum(len(row.paths) for row in rows))
        return decode(forward, rows, *rest)

    monkeypatch.setattr(lm_model, "decode", counted)
    monkeypatch.setitem(lm_model.ROW_TOKENS, "cpu", 30)
    monkeypatch.setitem(lm_model.BUFFER_BYTES, "cpu", 0)
    settings = {"until": ["e"], "max_gen_toks": 2, "do_sample": False}
    requests = _requests("generate_until", [(f"{i} is a question of some length:", settings) for i in range(5)])
    alone = SharedPromptLM(checkpoint, "fp32", "cpu", 1, seed=0)
    found = [alone.generate_until(requests)]
    assert sizes == [1] * 5
    own = max(len(alone.tok_encode(request.args[0])) for request in requests)
    monkeypatch.setitem(lm_model.BUFFER_BYTES, "cpu", own * cache_bytes(alone.model))
    for batch, expected in ((2, [2, 2, 1]), (3, [3, 2])):
        sizes.clear()
        found.append(SharedPromptLM(checkpoint, "fp32", "cpu", batch, seed=0).generate_until(requests))
        assert sizes == expected
    assert found[0] == found[1] == found[2]


def test_long_prompts_share_rows_for_a_small_model_on_a_gpu(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: none stands apart there, whatever its length; for a large model, and on a CPU, long ones do. Scores are the same."""
    monkeypatch.setattr(lm_model, "LONG_TRUNK", 20)
    requests = _requests("loglikelihood", [(f"{i} is a question of some length:", ending) for i in range(3) for ending in (" yes", " no")])
    rows: dict[str, int] = {}
    found = {}
    for place, device, small in (("small", "cuda", 10**9), ("large", "cuda", 0), ("cpu", "cpu", 10**9)):
        monkeypatch.setattr(lm_model, "SMALL", small)
        lm = SharedPromptLM(checkpoint, "fp32", "cpu", 1, seed=0)
        lm._kind = device
        counted = layout_counter(monkeypatch)
        found[place] = lm.loglikelihood(requests)
        rows[place] = counted[0]
    assert rows == {"small": 1, "large": 3, "cpu": 3}
    for place in ("large", "cpu"):
        assert [logp for logp, _ in found[place]] == pytest.approx([logp for logp, _ in found["small"]], abs=1e-4)


def layout_counter(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows a layout has, as layouts are made."""
    counts: list[int] = []

    def counted(*arguments: Any) -> list[Row]:
        rows = layout(*arguments)
        counts.append(len(rows))
        return rows

    monkeypatch.setattr(lm_model, "layout", counted)
    return counts


def test_an_unknown_family_takes_the_plain_path(tmp_path: Path) -> None:
    """GPT-2 is not among the families checked: scores and text are lm-eval's own, and kept all the same."""
    folder = gpt2_checkpoint(tmp_path / "gpt2")
    theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=2, add_bos_token=False)
    ours = SharedPromptLM(folder, "fp32", "cpu", 2, seed=0, workspace=tmp_path / "answers")
    pairs = [(context, ending) for context, endings in QUESTIONS for ending in endings]
    expected = theirs.loglikelihood(_requests("loglikelihood", pairs), disable_tqdm=True)
    found = ours.loglikelihood(_requests("loglikelihood", pairs))
    assert [logp for logp, _ in found] == pytest.approx([logp for logp, _ in expected], abs=1e-4)
    settings = {"until": ["e"], "max_gen_toks": 5, "do_sample": False}
    texts = [(context, settings) for context, _ in QUESTIONS[:3]]
    assert ours.generate_until(_requests("generate_until", texts)) == theirs.generate_until(_requests("generate_until", texts), True)
    assert len([*(tmp_path / "answers").glob("*.jsonl")]) == 2


def test_a_generation_config_that_bends_decoding_is_obeyed(checkpoint: Path, tmp_path: Path) -> None:
    """With a repetition penalty greedy text differs, and is what lm-eval's own path says."""
    bent = tmp_path / "bent"
    shutil.copytree(checkpoint, bent)
    GenerationConfig(eos_token_id=0, pad_token_id=0, repetition_penalty=1.8).save_pretrained(bent)
    settings = {"until": [], "max_gen_toks": 12, "do_sample": False}
    requests = [(context, settings) for context, _ in QUESTIONS[:3]]
    theirs = HFLM(pretrained=str(bent), device="cpu", dtype="float32", batch_size=2, add_bos_token=False)
    models = [SharedPromptLM(one, "fp32", "cpu", 2, seed=0) for one in (checkpoint, bent)]
    plain, ours = (model.generate_until(_requests("generate_until", requests)) for model in models)
    assert ours == theirs.generate_until(_requests("generate_until", requests), disable_tqdm=True)
    assert ours != plain


def test_a_sampled_answer_depends_on_its_prompt_and_the_seed_alone(checkpoint: Path) -> None:
    """Neither the batch nor torch's global generator changes a draw; the seed does."""
    settings = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0}
    requests = [(context, settings) for context, _ in QUESTIONS[:3]]
    together = SharedPromptLM(checkpoint, "fp32", "cpu", 3, seed=0).generate_until(_requests("generate_until", requests))
    torch.manual_seed(99)
    alone = SharedPromptLM(checkpoint, "fp32", "cpu", 1, seed=0).generate_until(_requests("generate_until", requests))
    other = SharedPromptLM(checkpoint, "fp32", "cpu", 3, seed=1).generate_until(_requests("generate_until", requests))
    assert together == alone
    assert together != other


def test_seeded_noise_draws_from_the_tempered_softmax() -> None:
    """Over 4000 rows the drawn shares are within 4 standard errors of softmax(logits / temperature)."""
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0])
    noise = SeededNoise([[i] for i in range(4000)], seed=5, temperature=0.7)
    drawn = noise(torch.zeros(4000, 1), logits.expand(4000, 4)).argmax(1)
    expected = (logits / 0.7).softmax(0)
    errors = (expected * (1 - expected) / 4000).sqrt()
    assert ((drawn.bincount(minlength=4) / 4000 - expected).abs() < 4 * errors).all()


def test_a_directory_without_a_model_is_one_clear_line(tmp_path: Path) -> None:
    """A missing checkpoint names the directory and what was expected."""
    with pytest.raises(InputError, match=r"holds no config\.json"):
        SharedPromptLM(tmp_path, "fp32", "cpu", 1, seed=0)


OF_THE_USER = "from harness.components.engines.hf import VERSION, open_engine\n"
"""transformers' own generation as an engine of another name: so it is asked, where engine hf itself never is."""


def test_another_engine_generates_what_lm_eval_does(checkpoint: Path, tmp_path: Path) -> None:
    """Promise: text comes from the recipe's engine, equal to lm-eval's `hf` backend's where that is transformers; scores never do; a
    launch after the last answer asks none.
    """
    engine = tmp_path / "transformers_again.py"
    engine.write_text(OF_THE_USER)
    settings = {"until": ["e"], "max_gen_toks": 12, "do_sample": False, "temperature": 0.0}
    requests = _requests("generate_until", [(context, settings) for context, _ in QUESTIONS[:3]] * 3)
    theirs = HFLM(pretrained=str(checkpoint), device="cpu", dtype="float32", batch_size=2, add_bos_token=False)
    expected = theirs.generate_until(requests, disable_tqdm=True)
    for asked in (len(requests), 0):
        ours = SharedPromptLM(checkpoint, "fp32", "cpu", 2, seed=0, workspace=tmp_path, machine=MACHINE, engine=str(engine))
        assert ours.generate_until(requests) == expected
        assert ours.asked == asked
    pairs = _requests("loglikelihood", [(context, ending) for context, endings in QUESTIONS for ending in endings])
    engine.write_text("raise RuntimeError\n")
    assert ours.loglikelihood(pairs) == SharedPromptLM(checkpoint, "fp32", "cpu", 2, seed=0).loglikelihood(pairs)


SPY = """
import json
from pathlib import Path

from harness.contracts import Response

VERSION = 1


class Engine:
    def generate(self, requests):
        Path(__file__).with_suffix(".json").write_text(json.dumps(requests))
        return [Response(request.request_id, request.token_ids[:5], "length") for request in requests]


def open_engine(checkpoint, dtype, machine):
    return Engine()
"""


def test_an_engine_is_told_all_that_a_task_asks(checkpoint: Path, tmp_path: Path) -> None:
    """Promise: prompt, temperature, top_p, length, stops and a seed of prompt and recipe reach the engine; further settings are refused."""
    engine = tmp_path / "spy.py"
    engine.write_text(SPY)
    settings = {"until": ["stop here"], "max_gen_toks": 7, "do_sample": True, "temperature": 0.5, "top_p": 0.9}
    requests = _requests("generate_until", [(context, settings) for context, _ in QUESTIONS[:3]])
    seeds = []
    for seed in (0, 1):
        ours = SharedPromptLM(checkpoint, "fp32", "cpu", 2, seed=seed, machine=MACHINE, engine=str(engine))
        said = ours.generate_until(requests)
        asked = [Request(*fields) for fields in json.loads((tmp_path / "spy.json").read_text())]
        assert [(one.max_new_tokens, one.temperature, one.top_p) for one in asked] == [(7, 0.5, 0.9)] * 3
        assert all("stop here" in one.stops for one in asked)
        assert [one.token_ids for one in asked] == [ours.tok_encode(request.args[0]) for request in requests]
        assert said == [ours.tok_decode(one.token_ids[:5]) for one in asked]
        seeds += [one.seed for one in asked]
    assert len({*seeds}) == 6
    requests = _requests("generate_until", [("a", {**settings, "top_k": 3, "typical_p": 0.2})])
    with pytest.raises(RecipeError, match="a task asks for top_k, typical_p, which engines are not told; take engine hf for it"):
        ours.generate_until(requests)
