"""The multiplications a step needs, and so the share of the device's peak it reached: useful tokens only, never padding.

A forward pass over a group costs 2 FLOPs a weight and token in the layers (the prompt once), 2 a weight of the vocabulary projection
for each token predicted, and 4 a channel and layer for each token another one sees. A backward pass costs twice that, or as much
where only adapters are trained. What is recomputed (gradient checkpointing, logits) counts as nothing.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from harness.errors import MachineError
from harness.lm.group_logps import Group
from harness.machine import Machine


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


CPU_MESSAGE = "can't allocate memory"
"""What torch's CPU allocator says; the kernel usually kills the process before, which the runner reports."""


def peak_memory_gb(machine: Machine) -> float:
    """Of this process since its start: allocated on its GPU, or resident on the CPU."""
    if machine.device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


@contextmanager
def naming_micro_batch(machine: Machine) -> Iterator[None]:
    """Out of memory inside becomes a `MachineError` that says to lower `micro_batch`, or what to do where it is 1 already."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and CPU_MESSAGE not in str(error):
            raise
        ways = [f"lower micro_batch (now {machine.micro_batch})"] if machine.micro_batch > 1 else []
        if not machine.gradient_checkpointing:
            ways.append("set gradient_checkpointing=True")
        ways.append("take more devices and shard over them (machines/a100x8.py)")
        hint = f"in its file {', or '.join(ways)}: results stay the same"
        raise MachineError(f"machine {machine.name!r} is out of memory; {hint}") from None
