"""Sampling whose draws belong to a prompt and a seed, not to a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor


class SeededNoise(LogitsProcessor):  # type: ignore[misc]
    """Gumbel noise on the logits, each row from a generator of its own: the argmax is then a draw from softmax(logits / temperature).

    A row's draws depend on its prompt and the seed, not on the other rows of its batch. The `hf` engine draws otherwise, one uniform a
    token (components/engines/hf.py): either in the other's place would change what committed runs drew.
    """

    def __init__(self, prompts: list[list[int]], seed: int, temperature: float) -> None:
        self.temperature = temperature
        self.generators = [torch.Generator().manual_seed(_seed_of(prompt, seed)) for prompt in prompts]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, vocabulary) with noise added."""
        return self.add(range(len(scores)), scores)

    def add(self, prompts: Sequence[int], scores: Tensor) -> Tensor:
        """Scores (B, vocabulary) with the noise of the prompts so numbered."""
        drawn = [torch.rand(scores.shape[-1], generator=self.generators[i], dtype=torch.float64) for i in prompts]
        gumbel = -torch.log(-torch.log(torch.stack(drawn).clamp(min=torch.finfo(torch.float64).tiny)))
        return scores.float() / self.temperature + gumbel.to(scores.device, torch.float32)


def _seed_of(prompt: list[int], seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {prompt}".encode()).digest()[:7], "big")
