"""The arithmetic of memory is that of the real architecture, counted on torch's meta device, and decides what may start."""

from __future__ import annotations

import pytest
import torch

from harness.errors import MachineError
from harness.machine import USABLE
from harness.machine import load as load_machine
from harness.plan import plan
from harness.recipe import Lora, Recipe, load, replace
from harness.runs.needs import memory
from harness.runs.needs.hardware import machine_for
from harness.runs.needs.memory import BOUNDARY_BYTES, INSIDE_BYTES, Memory
from tests import ROOT
from tests.hardware_tables import computer
from tests.meta_device import counted

ZEPHYR = load("zephyr-7b")


def training(recipe: Recipe, name: str) -> Memory:
    """What the largest training of `recipe` needs on the machine of that name."""
    found = [memory.needed(recipe, stage, load_machine(name)) for stage in plan(recipe) if stage.kind == "train"]
    return max(found, key=lambda one: one.total)


@pytest.mark.parametrize(("size", "dtype"), [(2, torch.bfloat16), (4, torch.float32)])
def test_constants_are_those_of_the_architecture(size: int, dtype: torch.dtype) -> None:
    """Parameters within 0.1 %, bytes at a layer's entrance and inside it within a tenth of what autograd keeps."""
    checkpointed, whole = counted(dtype, checkpointing=True), counted(dtype, checkpointing=False)
    assert checkpointed.parameters == pytest.approx(ZEPHYR.sizes.num_parameters, rel=1e-3)
    assert checkpointed.bytes_a_token == pytest.approx(BOUNDARY_BYTES[size], rel=0.1)
    assert whole.bytes_a_token == pytest.approx(INSIDE_BYTES[size], rel=0.1)


def test_a_shape_is_guessed_from_the_parameters() -> None:
    """Within a tenth of Mistral-7B and Tulu-2-70B, which have 32 layers of 4096 and 80 of 8192 (their product is what counts)."""
    for num, layers, hidden in ((7.24e9, 32, 4096), (6.9e10, 80, 8192)):
        assert memory.shape_of(num).layers * memory.shape_of(num).hidden == pytest.approx(layers * hidden, rel=0.1)


def test_state_by_hand() -> None:
    """4 bytes each for weights, gradients and RMSProp's state: whole on one device, an eighth on eight, on the host where offloaded."""
    for name, shards in (("h100x1", 1), ("h100x2", 2), ("a100x4", 4), ("a100x8", 8), ("a100x8-two-nodes", 16)):
        found = training(ZEPHYR, name)
        assert (found.weights, found.gradients, found.optimizer) == pytest.approx([4 * 7.24 / shards] * 3)
    offloaded = load_machine("a100x8").model_copy(update={"num_devices": 1, "sharding": "fsdp2_offload"})
    stage = next(stage for stage in plan(ZEPHYR) if stage.kind == "train")
    found = memory.needed(ZEPHYR, stage, offloaded)
    assert (found.weights, found.gradients, found.optimizer) == (0, 0, 0)
    assert found.host == pytest.approx(12 * 7.24)


def test_one_card_as_the_page_says() -> None:
    """Promise: docs/hardware.md states what `zephyr-7b-lora` takes of one card and of the host, by this arithmetic; 12 GB are refused."""
    recipe, page = load("zephyr-7b-lora"), (ROOT / "docs/hardware.md").read_text()
    for gigabytes, strategy in ((24, "FSDP2, state on the host"), (40, "FSDP2, state on the host"), (80, "one process")):
        machine = machine_for(recipe, computer(1, gigabytes))
        most = max((memory.needed(recipe, stage, machine) for stage in plan(recipe) if stage.kind == "train"), key=lambda one: one.total)
        values = [most.weights, most.gradients + most.optimizer, most.copies, most.activations, most.total, USABLE * machine.memory_gb]
        figures = " | ".join(f"{value:.1f}" for value in (*values, most.host))
        assert f"| {gigabytes} GB | {strategy}, {machine.micro_batch} pairs | {figures} |" in page
    with pytest.raises(MachineError, match="need 14 GB on each device"):
        machine_for(recipe, computer(1, 12))


def test_adapters_need_a_fraction_of_the_state() -> None:
    """With LoRA neither the gradients nor the state of the base are kept."""
    adapted = replace(ZEPHYR, name="adapted", lora=Lora(rank=16, alpha=32, targets=("q_proj",)), because={"lora": "one GPU"})
    assert training(adapted, "h100x1").gradients < 0.05 * training(ZEPHYR, "h100x1").gradients
    assert training(adapted, "h100x1").weights == training(ZEPHYR, "h100x1").weights


@pytest.mark.parametrize(
    ("recipe", "machine", "says"),
    [
        ("zephyr-7b", "h100x1", "train stages of zephyr-7b need 118 GB on each device (weights 29.0 + gradients 29.0 + optimizer 29.0 + "),
        ("zephyr-7b", "h100x2", None),
        ("zephyr-7b", "h100x8", None),
        ("zephyr-7b", "a100x4", None),
        ("zephyr-7b", "a100x8", None),
        ("zephyr-7b", "a100x8-two-nodes", None),
        ("qwen3-0-6b", "h100x1", None),
        ("zephyr-7b-lora", "h100x1", None),
        ("tulu-2-70b", "a100x8", "need 138 GB on each device (weights 138.0), a device has 80"),
        ("zephyr-7b", "cpu", "a device has 16"),
        ("smollm2-135m", "cpu", None),
        ("tiny", "cpu", None),
    ],
)
def test_what_cannot_fit_is_refused_with_the_arithmetic(recipe: str, machine: str, says: str | None) -> None:
    """Each part that is summed is in the line, and so is what a device has."""
    found = memory.refusal(load(recipe), load_machine(machine))
    assert (found is None) if says is None else (found is not None and says in found)
