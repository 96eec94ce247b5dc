"""The multiplications a step needs, and so the share of the device's peak it reached: useful tokens only, never padding.

A forward pass over a group costs 2 FLOPs a weight and token in the layers (the prompt once), 2 a weight of the vocabulary projection
for each token predicted, and 4 a channel and layer for each token another one sees. A backward pass costs twice that, or as much
where only adapters are trained. What is recomputed (gradient checkpointing, logits) counts as nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from harness.lm.group_logps import Group


class ModelSizes(NamedTuple):
    """Weights of the matrices in the layers, weights of the vocabulary projection, and query channels of all layers together."""

    layers: int
    projection: int
    channels: int


def measure(model: nn.Module) -> ModelSizes:
    """The sizes of a causal language model of transformers, before anything shards it or adds adapters."""
    causal_lm: Any = model
    config = causal_lm.config
    embeddings = causal_lm.get_input_embeddings().weight
    layers = sum(weight.numel() for weight in causal_lm.base_model.parameters() if weight.ndim == 2 and weight is not embeddings)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelSizes(
        layers=layers,
        projection=causal_lm.get_output_embeddings().weight.numel(),
        channels=config.num_hidden_layers * config.num_attention_heads * head_dim,
    )


def forward_flops(sizes: ModelSizes, groups: Sequence[Group]) -> float:
    """Of scoring `groups` once."""
    total = 0.0
    for group in groups:
        prompt, branches = len(group.prompt), [len(branch) for branch in group.branches]
        predicted = sum(branches)
        seen = prompt * (prompt + 1) / 2 + sum(length * prompt + length * (length + 1) / 2 for length in branches)
        total += 2 * sizes.layers * (prompt + predicted) + 2 * sizes.projection * predicted + 4 * sizes.channels * seen
    return total


def step_flops(sizes: ModelSizes, groups: Sequence[Group], *, adapters: bool) -> float:
    """Of a forward and a backward pass over `groups`."""
    return forward_flops(sizes, groups) * (2 if adapters else 3)
