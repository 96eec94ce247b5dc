"""With no machine named, the computer is looked at: what each recipe gets on it, or the one line that refuses it."""

from __future__ import annotations

import re

import pytest

from harness import machine as machines
from harness import recipe as recipes
from harness.errors import MachineError
from harness.machine import Machine
from harness.recipe import Recipe
from harness.runs.needs import memory
from harness.runs.needs.gpus import Gpu
from harness.runs.needs.hardware import Hardware, machine_for, misfit
from tests.hardware_tables import CARDS, NUMBERS, PAGE, computer, renewed

ZEPHYR = recipes.load("zephyr-7b")


def found(recipe: Recipe, here: Hardware) -> tuple[Machine | None, str]:
    """The machine, or None and why."""
    try:
        return machine_for(recipe, here), ""
    except MachineError as error:
        return None, str(error)


@pytest.mark.parametrize("name", sorted(recipes.available()))
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("gigabytes", CARDS)
def test_every_recipe_gets_a_machine_that_fits_or_one_line(name: str, number: int, gigabytes: int) -> None:
    """Whatever is found, the machine has no more devices than there are, fits, deals the batches evenly, and starts as many processes."""
    recipe, here = recipes.load(name), computer(number, gigabytes)
    machine, reason = found(recipe, here)
    if machine is None:
        assert "\n" not in reason
        assert str(here) in reason
        return
    assert misfit(recipe, machine, here) is None
    machines.check(machine, recipe)
    assert machine.num_replicas * machine.tensor_parallel <= max(number, 1)
    assert recipe.global_batch_size // machine.num_devices % machine.micro_batch == 0 or machine.device == "cpu"
    if machine.num_devices > 1:
        words = " ".join(machines.launcher(machine, "train", "python"))
        assert re.search(rf"--(num_processes|nproc-per-node)={machine.num_devices}\b", words)


def test_more_memory_is_never_worse() -> None:
    """With larger cards the micro-batch grows, and the state leaves the host's memory."""
    found = [machine_for(ZEPHYR, computer(4, gigabytes)) for gigabytes in CARDS]
    assert [machine.sharding for machine in found] == ["fsdp2_offload", "fsdp2", "fsdp2"]
    assert [machine.micro_batch for machine in found] == sorted(machine.micro_batch for machine in found)


def test_a_number_of_gpus_that_does_not_divide_the_batch_is_not_used_whole() -> None:
    """Of six GPUs, four deal 64 pairs evenly."""
    assert machine_for(ZEPHYR, computer(6, 80)).num_devices == 4


def test_a_gpu_without_bf16_is_refused() -> None:
    """A V100 holds a small model in fp32, and none in bf16."""
    here = Hardware((Gpu("Tesla V100-SXM2-32GB", 34.0, 7.0),), 8, 256.0)
    with pytest.raises(MachineError, match=r"qwen3-0-6b computes in bf16, which needs compute capability 8.0; here is Tesla V100"):
        machine_for(recipes.load("qwen3-0-6b"), here)
    assert machine_for(recipes.load("smollm2-135m"), here).device == "cuda"


def test_offload_needs_the_host_s_memory() -> None:
    """One 24 GB card with 64 GB beside it cannot keep 87 GB of state anywhere."""
    small = computer(1, 24)._replace(memory_gb=64.0)
    with pytest.raises(MachineError, match="training zephyr-7b keeps 87 GB in the host's memory, 64 GB are here"):
        machine_for(ZEPHYR, small)


def test_a_named_machine_must_be_there() -> None:
    """h100x1 on a computer without a GPU, and a100x8 on one with two, are not trained on the CPU or on two without a word."""
    for name, here in (("h100x1", computer(0, 0)), ("a100x8", computer(2, 80))):
        assert str(misfit(recipes.load("tiny"), machines.load(name), here)).startswith(f"machine {name} has ")
    assert misfit(ZEPHYR, machines.load("a100x8"), computer(8, 80)) is None
    assert "a device has 43" in str(misfit(recipes.load("tulu-2-70b"), machines.load("a100x8"), computer(8, 40)))
    assert misfit(ZEPHYR, machines.load("a100x8-two-nodes"), computer(0, 0)) is None


@pytest.mark.parametrize("name", ["slurm-a100x8", "slurm-h100x8", "slurm-a100x8-two-nodes"])
def test_a_slurm_machine_is_not_looked_for_here(name: str) -> None:
    """Promise: a login node has no GPU, or a small one, and hands over the jobs all the same; what no node can hold is still refused."""
    for here in (computer(0, 0), computer(1, 24)._replace(memory_gb=16.0)):
        assert misfit(ZEPHYR, machines.load(name), here) is None
    small = machines.load(name).model_copy(update={"memory_gb": 24.0, "sharding": "none"})
    assert "a device has 24" in str(misfit(ZEPHYR, small, computer(8, 80)))


def test_small_models_get_one_thread_and_no_gpu() -> None:
    """A second thread, or a GPU, would wait for a model of 86 thousand parameters."""
    tiny = machine_for(recipes.load("tiny"), computer(8, 80))
    assert (tiny.device, tiny.num_threads, tiny.slots, set(tiny.slots_of.values())) == ("cpu", 1, 16, {1})
    assert machine_for(recipes.load("smollm2-135m"), computer(0, 0)).num_threads == 16


def test_tables_of_the_docs() -> None:
    """The tables of docs/hardware.md are what the code says today; `nox -s docs -- write` renews them."""
    assert renewed(PAGE.read_text()) == PAGE.read_text()


def test_usable_memory_is_less_than_all() -> None:
    """Some of a device's memory is the driver's."""
    assert 0.85 < memory.USABLE < 1
