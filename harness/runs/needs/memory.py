"""What a stage needs of each device's memory, and of the host's: arithmetic on the recipe's sizes, read from no model.

Training keeps weights, gradients and optimizer state in fp32. `sharding` divides them among the devices; each then also holds two
layers gathered for computing and the gradient of one. A device alone holds bf16 copies of all weights while it computes in bf16.
Activations are those of the longest rows a micro-batch can have: with gradient checkpointing each layer's input, and everything
inside one layer; without it everything inside all. To that comes one chunk of logits. Generation and evaluation hold one engine's
weights and grow into what is left.

A model's shape is guessed from its parameters: a Llama of L layers and width 128 L has 12 L (128 L)^2 of them. The bytes a token
leaves behind were counted for Mistral-7B on torch's meta device, which tests/runs/test_memory.py repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from harness.artifact import Stage
from harness.contracts import branches
from harness.contracts.stage_specs import TrainSpec
from harness.machine import USABLE, Machine
from harness.plan import plan
from harness.recipe import Recipe

GB = 1e9
OPTIMIZER_BYTES = {"rmsprop": 4, "adamw": 8}
"""State kept for each trained parameter, in fp32."""
ADAPTERS = 0.02
"""Adapters as a share of all parameters; generous."""
BOUNDARY_BYTES, INSIDE_BYTES = {2: 2.2, 4: 4.3}, {2: 59.0, 4: 97.0}
"""What a token leaves at a layer's entrance and inside it, for each channel, by the bytes of a value."""
LOGITS_TOKENS, LOGITS_COPIES, VOCABULARY = 1024, 3, 32_000


class Memory(NamedTuple):
    """GB on each device; `host` is in the memory of the node."""

    weights: float
    gradients: float = 0.0
    optimizer: float = 0.0
    copies: float = 0.0
    activations: float = 0.0
    host: float = 0.0

    @property
    def total(self) -> float:
        """GB on each device."""
        return self.weights + self.gradients + self.optimizer + self.copies + self.activations


class Shape(NamedTuple):
    """Of a decoder with so many parameters."""

    layers: float
    hidden: float
    vocabulary: float


def shape_of(num_parameters: float) -> Shape:
    """The guess the module's docstring explains. Example: 7.24e9 parameters are 33 layers of width 4259; Mistral-7B has 32 of 4096."""
    hidden = (num_parameters * 128 / 12) ** (1 / 3)
    return Shape(layers=hidden / 128, hidden=hidden, vocabulary=min(VOCABULARY, 12 * hidden))


def needed(recipe: Recipe, stage: Stage, machine: Machine) -> Memory:
    """What `stage` needs on `machine`; nothing where it holds no model."""
    if stage.kind == "train":
        return _train(recipe, TrainSpec.model_validate(stage.spec), machine)
    if stage.kind in ("generate", "evaluate"):
        shared_by = machine.tensor_parallel if stage.kind == "generate" else 1
        return Memory(weights=_compute_bytes(recipe) * recipe.sizes.num_parameters / GB / shared_by)
    return Memory(weights=0.0)


def refusal(recipe: Recipe, machine: Machine, stages: Sequence[Stage] | None = None, device_gb: float | None = None) -> str | None:
    """Why `stages` of `recipe` (None: all) cannot run on `machine`, with the arithmetic of the largest of a kind; None where they fit.

    `device_gb` is what a device was found to have, where that is known.
    """
    here = machine.memory_gb if device_gb is None else device_gb
    largest: dict[str, Memory] = {}
    for stage in plan(recipe) if stages is None else stages:
        found = needed(recipe, stage, machine)
        largest[stage.kind] = max(found, largest.get(stage.kind, found), key=lambda memory: memory.total)
    for kind, memory in largest.items():
        if memory.total > USABLE * here:
            return f"{kind} stages of {recipe.name} need {memory.total:.0f} GB on each device ({_sum(memory)}), a device has {here:.0f}"
    return None


def host_gb(recipe: Recipe, machine: Machine, stages: Sequence[Stage] | None = None) -> float:
    """What the node's memory must hold at the most."""
    return max((needed(recipe, stage, machine).host for stage in (plan(recipe) if stages is None else stages)), default=0.0)


def _sum(memory: Memory) -> str:
    parts = {name: gb for name, gb in memory._asdict().items() if name != "host" and gb >= 0.05}
    return " + ".join(f"{name} {gb:.1f}" for name, gb in parts.items())


def _train(recipe: Recipe, spec: TrainSpec, machine: Machine) -> Memory:
    num = recipe.sizes.num_parameters / GB
    trained = num * ADAPTERS if spec.lora else num
    shards = machine.num_devices if machine.sharding != "none" else 1
    weights, gradients, optimizer = 4 * num, 4 * trained, OPTIMIZER_BYTES[spec.optimizer.name] * trained
    tokens = machine.micro_batch * (spec.max_length + (len(branches(spec.objective)) - 1) * recipe.sampling.max_new_tokens)
    on_top = {"copies": _copies(recipe, machine), "activations": _activations(recipe, machine, tokens)}
    if machine.sharding == "fsdp2_offload":
        return Memory(weights=0.0, host=(weights + gradients + optimizer) / machine.num_nodes, **on_top)
    host = weights if machine.device == "cuda" else 0.0
    return Memory(weights / shards, gradients / shards, optimizer / shards, host=host, **on_top)


def _copies(recipe: Recipe, machine: Machine) -> float:
    """Weights a device holds beside its own, in the precision it computes in."""
    num, shape, size = recipe.sizes.num_parameters, shape_of(recipe.sizes.num_parameters), _compute_bytes(recipe)
    if machine.sharding == "none":
        return size * num / GB if recipe.precision == "bf16" else 0.0
    outside = 2 * shape.vocabulary * shape.hidden  # embeddings and vocabulary projection
    return ((2 * size + 4) * num / shape.layers + (size + 4) * outside) / GB


def _activations(recipe: Recipe, machine: Machine, tokens: float) -> float:
    shape, size = shape_of(recipe.sizes.num_parameters), _compute_bytes(recipe)
    between = 2 if machine.sharding != "none" and recipe.precision == "bf16" else 4  # a device alone keeps the residual stream in fp32
    inside = INSIDE_BYTES[size] * shape.hidden * tokens
    logits = LOGITS_TOKENS * shape.vocabulary * 4 * LOGITS_COPIES
    if machine.gradient_checkpointing:
        return (BOUNDARY_BYTES[between] * shape.hidden * shape.layers * tokens + inside + logits) / GB
    return (inside * shape.layers + logits) / GB


def _compute_bytes(recipe: Recipe) -> int:
    return 2 if recipe.precision == "bf16" else 4
