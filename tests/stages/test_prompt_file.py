"""Prompts in the order they are answered in, each with a seed of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.components.sources.procedural import VOCABULARY
from harness.contracts import Demonstration
from harness.contracts.stage_specs import GenerateSpec
from harness.recipe import Sampling
from harness.stages.model import build_tokenizer
from harness.stages.prompt_file import PromptFile, seed_of
from harness.training.pairs import write_demonstrations

SETTINGS = GenerateSpec(engine="hf", sampling=Sampling(temperature=0.5, max_new_tokens=6), template="chat", dtype="float32", seed=3)


@pytest.fixture
def prompts(tmp_path: Path) -> PromptFile:
    words = [VOCABULARY[0], VOCABULARY[1], VOCABULARY[2]]
    rows = [Demonstration(f"é{i}", [{"role": "user", "content": " ".join(words[: 1 + i % 3])}], "ü" * i) for i in range(9)]
    write_demonstrations(tmp_path / "prompts.jsonl", rows[::-1])
    return PromptFile(tmp_path / "prompts.jsonl", build_tokenizer(VOCABULARY), SETTINGS)


def test_shortest_first_then_by_id(prompts: PromptFile) -> None:
    """Prompts are sorted by their tokens, ties by id, whatever the order of the file."""
    found = prompts.index()
    assert [prompt.prompt_id for prompt in found] == ["é0", "é3", "é6", "é1", "é4", "é7", "é2", "é5", "é8"]


def test_requests_are_those_of_the_index(prompts: PromptFile) -> None:
    """A prompt's offset leads back to it: its id, its tokens, the stage's sampling and its own seed."""
    found = prompts.index()[::2]
    for prompt, request in zip(found, prompts.requests([prompt.offset for prompt in found]), strict=True):
        assert (request.request_id, len(request.token_ids)) == (prompt.prompt_id, prompt.num_tokens)
        assert (request.temperature, request.top_p, request.max_new_tokens) == (0.5, 1.0, 6)
        assert request.seed == seed_of(3, prompt.prompt_id)


def test_seeds_are_stable() -> None:
    """A prompt's seed is a fixed function of the stage's seed and its id."""
    assert seed_of(3, "p0") == seed_of(3, "p0") < 2**64
    assert len({seed_of(seed, prompt_id) for seed in range(9) for prompt_id in ("a", "b", "1")}) == 27
