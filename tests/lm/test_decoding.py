"""Decoding over shared prefixes equals transformers' own generation, prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface

from harness.lm import decoding, trunk_attention
from harness.lm.decoding import ROOM, Draw, Ends, buffer_bytes, cache_bytes, decode, greedy
from harness.lm.prefix_forward import PrefixForward
from harness.lm.prefix_tree import Row, Scored, layout
from harness.lm.seeded_sampling import SeededNoise
from harness.lm.trunk_attention import States
from tests.families import FAMILIES, small_model

PREAMBLE = [*range(1, 60)]
PROMPTS = [[*PREAMBLE, 3, 4], [*PREAMBLE, 5], [7, 8, 9], [7, 8, 9, 10, 11, 12, 13], [*PREAMBLE, 3, 4, 6, 7, 8]]
ALIKE = [[*PREAMBLE, *range(60, 60 + length)] for length in (1, 4, 2, 9, 7)]
NUM_NEW = 12
STOP = 20
"""Tokens below this one end an answer."""


def _rows(prompts: Sequence[Sequence[int]]) -> list[Row]:
    return layout([Scored((*prompt, -1), len(prompt)) for prompt in prompts], 8)


@pytest.mark.parametrize("prompts", [PROMPTS, ALIKE, ALIKE[:1]], ids=["mixed", "alike", "alone"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_equal_those_of_generate(family: str, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of other lengths, some or all over a cached preamble, each ending by itself; the batch shrinks, its buffers grow."""
    monkeypatch.setattr(decoding, "ROOM", 3)
    model = small_model(FAMILIES[family]())
    settings = {"max_new_tokens": NUM_NEW, "do_sample": False, "eos_token_id": None}
    expected = [_cut(model.generate(torch.tensor([prompt]), **settings)[0, len(prompt) :]) for prompt in prompts]
    forward = PrefixForward(model)
    said = decode(forward, _rows(prompts), NUM_NEW, greedy, lambda tokens: tokens[-1] < STOP)
    assert [said[i] for i in range(len(prompts))] == expected
    assert model.config._attn_implementation == "sdpa"


def test_a_preamble_of_all_prompts_is_attended_to_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts that all begin alike are decoded over one copy of their beginning, also when an error ends it."""
    lengths: set[int] = set()

    def attend(module: object, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, trunk: list[States], **kwargs: float) -> object:
        lengths.add(trunk[0][0].shape[2] if trunk else 0)
        return trunk_attention.attend(module, query, key, value, mask, trunk=trunk, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setitem(AttentionInterface._global_mapping, trunk_attention.IMPLEMENTATION, attend)
    model = small_model(FAMILIES["llama"]())

    def say(prompts: list[list[int]], ends: Ends) -> None:
        decode(PrefixForward(model), _rows(prompts), 3, greedy, ends)

    say(PROMPTS, lambda tokens: False)
    assert lengths == {0}
    lengths.clear()
    with pytest.raises(ZeroDivisionError):
        say(ALIKE, lambda tokens: bool(len(tokens) == 2 and 1 / 0))
    assert lengths == {len(PREAMBLE)}
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("temperature", [None, 1.0], ids=["greedy", "sampled"])
def test_guesses_save_steps_and_change_no_answer(temperature: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that repeats itself takes fewer steps than tokens, and says what it says without guesses, also where its tokens are drawn."""
    model = small_model(FAMILIES["llama"]())
    steps: list[int] = []
    step = decoding._Batch.step

    def counted(self: decoding._Batch, tokens: list[list[int]], starts: list[int]) -> Tensor:
        steps.append(len(tokens[0]))
        return step(self, tokens, starts)

    def draw() -> Draw:
        noise = SeededNoise(ALIKE, 0, temperature or 1.0)
        return greedy if temperature is None else lambda indices, logits: noise.add(indices, logits).argmax(dim=1)

    monkeypatch.setattr(decoding._Batch, "step", counted)
    said = {}
    for read in (1, 32):
        monkeypatch.setitem(decoding.STEP_TOKENS, "cpu", read)
        said[read] = decode(PrefixForward(model), _rows(ALIKE), 40, draw(), lambda tokens: False)
    assert said[1] == said[32]
    assert steps[:39] == [1] * 39
    guessed = steps[39:]
    assert set(guessed) == {1 + decoding.LONGEST_GUESS}
    assert len(guessed) <= 39 - 5 * (temperature is None)


def test_cache_bytes_are_those_of_a_token_in_every_layer() -> None:
    """What the budget counts is what a cache of the model holds."""
    for build in FAMILIES.values():
        model = small_model(build())
        (row,) = layout([Scored((1, 2, 3, 4, 5, -1), 5)], 8)
        hidden, cache = PrefixForward(model).run(row)
        assert not hidden.requires_grad
        assert sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) == 5 * cache_bytes(model)


@pytest.mark.parametrize("prompts", [PROMPTS, ALIKE], ids=["mixed", "alike"])
def test_buffer_bytes_are_those_of_the_buffers(prompts: list[list[int]]) -> None:
    """What a batch is said to take it takes, but for the room of its answers; what its prompts share is not counted for each of them."""
    model, rows = small_model(FAMILIES["llama"]()), _rows(prompts)
    batch = decoding._Batch(PrefixForward(model), rows)
    taken = sum(buffer.nbytes for layer in batch.cache.layers for buffer in layer.buffers)
    assert taken == buffer_bytes(model, rows) + len(prompts) * ROOM * cache_bytes(model)
    longest = max(map(len, prompts)) - (len(PREAMBLE) if prompts is ALIKE else 0)
    assert buffer_bytes(model, rows) == len(prompts) * longest * cache_bytes(model)


def _cut(tokens: Tensor) -> list[int]:
    """Up to and including the first token below STOP."""
    whole: list[int] = tokens.tolist()
    return whole[: next((i for i, token in enumerate(whole, 1) if token < STOP), NUM_NEW)]
