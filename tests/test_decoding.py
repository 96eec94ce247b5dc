"""Decoding over shared prefixes equals transformers' own generation, prompt by prompt."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.decoding import cache_bytes, decode, greedy, read
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
    prompts = [prompt for row in rows for prompt in read(forward, row)]
    for prompt in prompts:
        held = sum(tensor.numel() * tensor.itemsize for states in prompt.states for tensor in states)
        assert held == len(PROMPTS[prompt.number]) * cache_bytes(model)
        assert not prompt.logits.requires_grad
    said = decode(forward, prompts, NUM_NEW, greedy, lambda tokens: tokens[-1] < STOP)
    assert [said[i] for i in range(len(PROMPTS))] == expected


def _cut(tokens: Tensor) -> list[int]:
    """Up to and including the first token below STOP."""
    whole: list[int] = tokens.tolist()
    return whole[: next((i for i, token in enumerate(whole, 1) if token < STOP), NUM_NEW)]
