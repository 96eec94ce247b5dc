"""Decoding over shared prefixes equals transformers' own generation, prompt by prompt."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.decoding import cache_bytes, decode, greedy
from harness.prefix_forward import PrefixForward
from harness.prefixes import Scored, layout
from tests.families import FAMILIES, small_model

PREAMBLE = [*range(1, 60)]
PROMPTS = [[*PREAMBLE, 3, 4], [*PREAMBLE, 5], [7, 8, 9], [7, 8, 9, 10, 11, 12, 13], [*PREAMBLE, 3, 4, 6, 7, 8]]
NUM_NEW = 12
STOP = 20
"""Tokens below this one end an answer."""


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_equal_those_of_generate(family: str) -> None:
    """Prompts of other lengths, with and without a cached preamble, each ending by itself; the batch shrinks on the way."""
    model = small_model(FAMILIES[family]())
    settings = {"max_new_tokens": NUM_NEW, "do_sample": False, "eos_token_id": None}
    expected = [_cut(model.generate(torch.tensor([prompt]), **settings)[0, len(prompt) :]) for prompt in PROMPTS]
    forward = PrefixForward(model)
    rows = layout([Scored((*prompt, -1), len(prompt)) for prompt in PROMPTS], 8)
    said = decode(forward, rows, NUM_NEW, greedy, lambda tokens: tokens[-1] < STOP)
    assert [said[i] for i in range(len(PROMPTS))] == expected


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
