"""The shared-prompt model must be lm-eval's `hf` model, only faster."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from harness.errors import InputError
from harness.lm_model import SeededNoise, SharedPromptLM
from tests.tiny_checkpoints import byte_checkpoint

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
