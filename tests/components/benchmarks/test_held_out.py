"""Held-out likelihood, margin and accuracy against plain transformers, and against a source whose entropy is known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness import machine
from harness.components.benchmarks import distribution, held_out
from harness.contracts import Demonstration, Job, Result, load
from harness.contracts.stage_specs import PairEncoding
from harness.errors import InputError, RecipeError
from harness.files import write_jsonl
from harness.plan import plan
from harness.recipe import Benchmark, PromptSource, Task, replace
from harness.recipe import load as load_recipe
from harness.training.pairs import write_demonstrations
from tests.tiny_checkpoints import byte_checkpoint, word_checkpoint

ENCODING = PairEncoding(template="alpaca", tokenization="modern", max_length=96, max_prompt_length=48)
TEXTS = (
    ("Name a colour.", "Red, I would say.", "blue"),
    ("Two words?", "Yes: both.", "Two words."),
    ("Say nothing long.", "Brief.", "This one goes on and on until it is cut somewhere in a word, as generated responses are"),
    ("Wie geht es?", "Gut, danke.", "gut danke"),
)


def tasks(names: Sequence[str] = tuple(held_out.TASKS)) -> tuple[Task, ...]:
    return tuple(Task(name=name, metric=held_out.METRICS[held_out.TASKS[name].removesuffix(held_out.LIKE)]) for name in names)


def rows(num: int) -> Iterator[tuple[Demonstration, str]]:
    """`num` rows with the opponent's response to each."""
    for i in range(num):
        prompt, real, generated = TEXTS[i % len(TEXTS)]
        yield Demonstration(f"p{i}", [{"role": "user", "content": f"{prompt} ({i})"}], f"{real} {i}"), generated


def folder(path: Path, pairs: Sequence[tuple[Demonstration, str]], trained: Sequence[Demonstration] = ()) -> dict[str, Path]:
    """The inputs of an evaluation, all but the opponent, as the stages write them."""
    others = [Demonstration("other", [{"role": "user", "content": "?"}], "!")]
    write_demonstrations(path / "prompts/prompts.jsonl", [row for row, _ in pairs])
    write_demonstrations(path / "trained/prompts.jsonl", [*trained, *others])
    lines = [{"prompt_id": row.prompt_id, "response": text, "finish_reason": "stop", "num_tokens": len(text)} for row, text in pairs]
    write_jsonl(path / "generated/responses/00000.jsonl", lines)
    return {role: path / role for role in ("prompts", "generated", "trained")}


def job(path: Path, policy: Path, opponent: Path, inputs: dict[str, Path], encoding: PairEncoding = ENCODING) -> Job:
    """The evaluation of `policy` against `opponent`, two directories that hold `checkpoint/`."""
    benchmark = Benchmark(name="held_out", protocol="as trained", tasks=tasks())
    cpu = machine.load("cpu")
    return Job(policy / "checkpoint", benchmark, "hf", cpu, "fp32", 0, path / "workspace", {**inputs, "opponent": opponent}, encoding)


def scored(one: Job) -> dict[str, Result]:
    score = held_out.open_benchmark(one)
    return {held_out.TASKS[task.name]: score(task) for task in one.benchmark.tasks}


def plain_logp(checkpoint: Path, prompt: str, response: str) -> tuple[float, int]:
    """Summed log-probability of the response and its EOS, a sequence at a time, by transformers alone; and the number of tokens."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    before = tokenizer(f"### Instruction: {prompt}\n\n### Response: ")["input_ids"][-48:]
    after = [*tokenizer(response)["input_ids"], tokenizer.eos_token_id][: 96 - len(before)]
    with torch.no_grad():
        logits = model(torch.tensor([before + after])).logits[0].double()
    logps = logits.log_softmax(-1)
    return sum(logps[len(before) + i - 1, token].item() for i, token in enumerate(after)), len(after)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy")
    byte_checkpoint(path / "checkpoint", seed=1)
    return path


@pytest.fixture(scope="module")
def opponent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("opponent")
    byte_checkpoint(path / "checkpoint", seed=2)
    return path


def test_equals_plain_transformers_on_20_prompts(tmp_path: Path, policy: Path, opponent: Path) -> None:
    """Likelihood, margin and accuracy of every prompt to 1e-4 nats, truncation and the end of a response included."""
    pairs = list(rows(20))
    found = scored(job(tmp_path, policy, opponent, folder(tmp_path, pairs)))
    for row, generated in pairs:
        prompt = row.prompt[0]["content"]
        (real, num_real), (said, num_said) = (plain_logp(policy / "checkpoint", prompt, text) for text in (row.real, generated))
        (real_before, _), (said_before, _) = (plain_logp(opponent / "checkpoint", prompt, text) for text in (row.real, generated))
        margin = (real - real_before) - (said - said_before)
        expected = {"nll": -real, "nll_per_token": -real / num_real, "margin": margin, "accuracy": 100.0 * (margin > 0)}
        for name, value in expected.items():
            assert found[name].score.values[row.prompt_id] == pytest.approx(value, abs=1e-4), (name, row.prompt_id)
        is_like = min(num_real, num_said) >= 0.8 * max(num_real, num_said)
        for name in ("margin", "accuracy"):
            like = found[f"{name}_like_length"].score.values
            assert (row.prompt_id in like) is is_like
            assert not is_like or like[row.prompt_id] == found[name].score.values[row.prompt_id]
    assert 0 < found["margin_like_length"].score.n < found["margin"].score.n == 20


def test_a_policy_that_is_its_own_opponent_tells_nothing(tmp_path: Path, policy: Path) -> None:
    """`sft`: every margin is 0 and half of the prompts count."""
    found = scored(job(tmp_path, policy, policy, folder(tmp_path, list(rows(4)))))
    assert set(found["margin"].score.values.values()) == {0.0}
    assert (found["accuracy"].score.value, found["accuracy"].score.n_unscored) == (50.0, 0)


def test_prompts_that_were_trained_on_are_left_out(tmp_path: Path, policy: Path, opponent: Path) -> None:
    """Two of the test split's prompts stand in the training split: two fewer are scored. All of them is an error."""
    pairs = list(rows(6))
    seen = folder(tmp_path / "two", pairs, [row for row, _ in pairs[:2]])
    assert scored(job(tmp_path, policy, opponent, seen))["nll"].score.n == 4
    every = folder(tmp_path / "all", pairs, [row for row, _ in pairs])
    with pytest.raises(InputError, match="all 6 held-out prompts are among those trained on"):
        scored(job(tmp_path, policy, opponent, every))


def test_likelihood_less_the_entropy_is_kl(tmp_path: Path) -> None:
    """On the procedural source, whose entropy is known: equal on the same prompts, and on others within the errors of both."""
    policy = tmp_path / "policy"
    word_checkpoint(policy / "checkpoint")
    source = load("sources", "procedural")
    kl = Benchmark(name="distribution", protocol="exact", tasks=(Task(name="kl", metric="nats", limit=150),))
    exact = Job(policy / "checkpoint", kl, "hf", machine.load("cpu"), "fp32", 0, tmp_path / "workspace")
    expected = distribution.open_benchmark(exact)(kl.tasks[0]).score
    chat = PairEncoding(template="chat", tokenization="modern", max_length=128, max_prompt_length=64)
    for split, seed in (("test", 0), ("validation", 7)):
        drawn = source.load(PromptSource(source="procedural", dataset="procedural", split=split, num_prompts=150, shuffle_seed=seed))
        inputs = folder(tmp_path / split, [(row, row.real) for row in drawn])
        nll = scored(job(tmp_path, policy, policy, inputs, chat))["nll"].score
        entropy = fmean(math.log(source.num_valid(row.prompt[0]["content"])) for row in drawn)
        assert nll.value is not None
        assert nll.stderr is not None
        assert expected.value is not None
        assert expected.stderr is not None
        within = 1e-4 if split == "test" else 3 * math.hypot(nll.stderr, expected.stderr)
        assert nll.value - entropy == pytest.approx(expected.value, abs=within)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task(name="held_out_nl", metric="nats"), "no task called 'held_out_nl'; did you mean 'held_out_nll'"),
        (Task(name="held_out_accuracy", metric="nats"), "measured in 'percent', found metric 'nats'"),
        (Task(name="held_out_nll", metric="nats", limit=3), "the number of prompts is that of the recipe's `held_out`"),
    ],
)
def test_a_task_without_name_or_unit_is_refused(task: Task, message: str, tmp_path: Path, policy: Path) -> None:
    """Before any model is loaded."""
    one = job(tmp_path, policy, policy, {})
    with pytest.raises(RecipeError, match=message):
        held_out.open_benchmark(one._replace(benchmark=one.benchmark.model_copy(update={"tasks": (task,)})))


def test_each_row_meets_its_own_opponent() -> None:
    """`sft` and what starts from it meet `sft`, an iteration the one before; one opponent answers once; training is as it was."""
    recipe = load_recipe("tiny-held-out")
    stages = {stage.path: stage for stage in plan(recipe)}
    met = {path.split("/")[0]: stage.inputs["opponent"] for path, stage in stages.items() if path.endswith("eval/held_out")}
    assert met == {"sft": "sft/train", "control": "sft/train", "iter0": "sft/train", "iter1": "iter0/train", "iter2": "iter1/train"}
    answers = [path for path, stage in stages.items() if stage.kind == "generate" and path.endswith("/held_out")]
    assert answers == ["sft/held_out", "iter0/held_out", "iter1/held_out"]
    assert stages["iter1/eval/held_out"].inputs["generated"] == "iter0/held_out"
    assert {stages[f"{row}/eval/held_out"].inputs["trained"] for row in met} == {"prompts"}
    assert "trained" not in {stage.path: stage for stage in plan(load_recipe("zephyr-7b"))}["sft/eval/held_out"].inputs
    tiny = {stage.path: stage.fingerprint for stage in plan(load_recipe("tiny"))}
    assert tiny.items() <= {path: stage.fingerprint for path, stage in stages.items()}.items()


def test_held_out_prompts_must_be_others() -> None:
    """The split trained on, none at all, or rows without an opponent are refused before anything runs."""
    recipe = load_recipe("tiny-held-out")
    with pytest.raises(RecipeError, match="held_out names the split trained on, 'train' of procedural"):
        replace(recipe, name="same", held_out=recipe.prompts)
    with pytest.raises(RecipeError, match="benchmark held_out needs prompts"):
        replace(recipe, name="none", held_out=None)


def test_held_out_rows_of_the_split_trained_on_are_named_and_others() -> None:
    """Promise: one split may serve both where each side names its rows; a row on both sides is refused by name."""
    recipe = load_recipe("smollm2-135m-power")
    trained, held_out = recipe.prompts.prompt_ids, recipe.held_out.prompt_ids if recipe.held_out else ()
    assert (len(trained), len(held_out)) == (128, 256)
    assert (recipe.held_out.dataset, recipe.held_out.split) == (recipe.prompts.dataset, recipe.prompts.split) if recipe.held_out else False
    both = recipe.prompts.model_copy(update={"prompt_ids": (*held_out[1:], trained[5]), "num_prompts": len(held_out)})
    with pytest.raises(RecipeError, match=f"share 1 of their prompt_ids, such as {trained[5]}"):
        replace(recipe, name="both", held_out=both)
