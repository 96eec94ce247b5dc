"""Decoding over shared prefixes equals transformers' own generation, prompt by prompt."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface

from harness import trunk_attention
from harness.decoding import Ends, cache_bytes, decode, greedy
from harness.prefix_forward import PrefixForward
from harness.prefixes import Scored, layout
from harness.trunk_attention import States
from tests.families import FAMILIES, small_model

PREAMBLE = [*range(1, 60)]
PROMPTS = [[*PREAMBLE, 3, 4], [*PREAMBLE, 5], [7, 8, 9], [7, 8, 9, 10, 11, 12, 13], [*PREAMBLE, 3, 4, 6, 7, 8]]
ALIKE = [[*PREAMBLE, *range(60, 60 + length)] for length in (1, 4, 2, 9, 7)]
NUM_NEW = 12
STOP = 20
"""Tokens below this one end an answer."""


@pytest.mark.parametrize("prompts", [PROMPTS, ALIKE], ids=["mixed", "alike"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_equal_those_of_generate(family: str, prompts: list[list[int]]) -> None:
    """Prompts of other lengths, some or all over a cached preamble, each ending by itself; the batch shrinks on the way."""
    model = small_model(FAMILIES[family]())
    settings = {"max_new_tokens": NUM_NEW, "do_sample": False, "eos_token_id": None}
    expected = [_cut(model.generate(torch.tensor([prompt]), **settings)[0, len(prompt) :]) for prompt in prompts]
    forward = PrefixForward(model)
    rows = layout([Scored((*prompt, -1), len(prompt)) for prompt in prompts], 8)
    said = decode(forward, rows, NUM_NEW, greedy, lambda tokens: tokens[-1] < STOP)
    assert [said[i] for i in range(len(prompts))] == expected
    assert model.config._attn_implementation == "sdpa"


def test_a_preamble_of_all_prompts_is_attended_to_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts that all begin alike are decoded over one copy of their beginning, also when an error ends it; a single prompt is not."""
    lengths: list[int] = []

    def attend(module: object, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, trunk: list[States], **kwargs: float) -> object:
        lengths.append(trunk[0][0].shape[2])
        return trunk_attention.attend(module, query, key, value, mask, trunk=trunk, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setitem(AttentionInterface._global_mapping, trunk_attention.IMPLEMENTATION, attend)
    model = small_model(FAMILIES["llama"]())

    def say(prompts: list[list[int]], ends: Ends) -> None:
        decode(PrefixForward(model), layout([Scored((*prompt, -1), len(prompt)) for prompt in prompts], 8), 3, greedy, ends)

    say(PROMPTS, lambda tokens: False)
    say(ALIKE[:1], lambda tokens: False)
    assert lengths == []
    with pytest.raises(ZeroDivisionError):
        say(ALIKE, lambda tokens: bool(len(tokens) == 2 and 1 / 0))
    assert set(lengths) == {len(PREAMBLE)}
    assert model.config._attn_implementation == "sdpa"


def test_cache_bytes_are_those_of_a_token_in_every_layer() -> None:
    """What the budget counts is what a cache of the model holds."""
    for build in FAMILIES.values():
        model = small_model(build())
        (row,) = layout([Scored((1, 2, 3, 4, 5, -1), 5)], 8)
        hidden, cache = PrefixForward(model).run(row)
        assert not hidden.requires_grad
        assert sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) == 5 * cache_bytes(model)


def _cut(tokens: Tensor) -> list[int]:
    """Up to and including the first token below STOP."""
    whole: list[int] = tokens.tolist()
    return whole[: next((i for i, token in enumerate(whole, 1) if token < STOP), NUM_NEW)]
