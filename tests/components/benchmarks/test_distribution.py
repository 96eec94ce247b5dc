"""Distances to the procedural source's true distribution, on models whose own distribution is known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness import machine
from harness.components.benchmarks import distribution
from harness.contracts import Job, Result, load
from harness.errors import RecipeError
from harness.recipe import Benchmark, Task
from tests.tiny_checkpoints import word_checkpoint

KL = Task(name="kl", metric="nats", limit=9)
INVALID = Task(name="invalid_mass", metric="percent", limit=9)


@pytest.fixture(scope="module")
def uniform_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that gives every token the same probability."""
    path = word_checkpoint(tmp_path_factory.mktemp("uniform"))
    model = AutoModelForCausalLM.from_pretrained(path)
    torch.nn.init.zeros_(model.lm_head.weight)
    model.save_pretrained(path)
    return path


def _measure(checkpoint: Path, task: Task) -> Result:
    benchmark = Benchmark(name="distribution", protocol="current", tasks=(task,), max_new_tokens=12)
    result: Result = distribution.open_benchmark(
        Job(checkpoint, benchmark, "hf", machine.load("cpu"), "fp32", 0, checkpoint / "workspace")
    )(task)
    return result


def test_kl_of_the_uniform_model_is_known(uniform_model: Path) -> None:
    """A response of n words and its end token costs (n + 1) ln V under the model and ln(number of valid) under the source."""
    source = load("sources", "procedural")
    vocabulary = len(AutoTokenizer.from_pretrained(uniform_model))
    expected = [
        (len(e.response.split()) + 1) * math.log(vocabulary) - math.log(source.num_valid(e.prompt)) for e in source.sample("test", 9, 0)
    ]
    score, samples = _measure(uniform_model, KL)
    assert list(score.values.values()) == pytest.approx(expected, abs=1e-4)
    assert score.value == pytest.approx(sum(expected) / 9, abs=1e-4)
    assert score.stderr == pytest.approx(torch.tensor(expected).std().item() / 3, abs=1e-3)
    assert [sample["value"] for sample in samples] == list(score.values.values())
    assert set(score.details["families"]) == set(source.FAMILIES)


def test_a_random_model_says_almost_nothing_valid(uniform_model: Path) -> None:
    """Every draw from the uniform model is invalid: 100 percent, and the same draws again."""
    score, samples = _measure(uniform_model, INVALID)
    assert (score.value, score.n, score.metric) == (100.0, 9, "percent")
    assert len({sample["response"] for sample in samples}) > 1
    assert _measure(uniform_model, INVALID).samples == samples


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task(name="kll", metric="nats", limit=3), "no task called 'kll'; did you mean 'kl'"),
        (Task(name="kl", metric="percent", limit=3), "measured in 'nats', found metric 'percent'"),
        (Task(name="kl", metric="nats"), "give the task a `limit`"),
    ],
)
def test_a_distance_without_name_unit_or_limit_is_refused(task: Task, message: str, tmp_path: Path) -> None:
    """A value is never reported in a unit the recipe does not name."""
    with pytest.raises(RecipeError, match=message):
        _measure(tmp_path, task)
