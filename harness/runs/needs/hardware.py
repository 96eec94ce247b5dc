"""What this computer has, and the machine that follows from it: devices, strategy and batch sizes, or why a recipe cannot run here.

Speeds are vendors' figures for dense bf16 and for memory, which feed estimates and decide nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

from harness import machine as machines
from harness.artifact import Stage
from harness.errors import MachineError
from harness.machine import Machine
from harness.plan import plan
from harness.recipe import Recipe
from harness.runs.needs import gpus, memory
from harness.runs.needs.gpus import GB, Gpu

NAME = "detected"
BF16_SINCE = 8.0
"""The compute capability that first had it (Ampere)."""
SPEEDS = {
    "B200": (2250.0, 8.0), "H200": (989.0, 4.8), "H100": (989.0, 3.35), "A100": (312.0, 2.0), "L40S": (362.0, 0.86), "L4": (121.0, 0.3),
    "A6000": (155.0, 0.77), "A40": (150.0, 0.7), "A10": (125.0, 0.6), "RTX 5090": (210.0, 1.8), "RTX 4090": (165.0, 1.0),
    "RTX 3090": (71.0, 0.94),
}  # fmt: skip
"""{part of a GPU's name: (TFLOPS, TB/s)}; the first that is found counts."""
UNKNOWN_SPEED = (100.0, 0.8)
TOKENS_A_TERABYTE = 1100.0
"""Generated tokens a second, of a model of 1e9 parameters, for each TB/s: what machines/a100x8.py assumes."""
CPU_TFLOPS, CPU_TOKENS = 0.0335, 5.5
"""Of one core, in fp32; as machines/cpu.py."""
ONE_THREAD, NEEDS_GPU = 1e6, 1e7
"""Parameters below which a second thread only waits, and below which a GPU would."""
MICRO_BATCHES = (16, 8, 4, 2, 1)


class Hardware(NamedTuple):
    """GPUs this process may use, CPU cores, GB of memory that programs may have."""

    gpus: tuple[Gpu, ...]
    num_cpus: int
    memory_gb: float

    def __str__(self) -> str:
        """Example: '4 x NVIDIA A100-SXM4-80GB (86 GB), 64 CPU cores, 1008 GB of memory'."""
        first = self.gpus[0] if self.gpus else None
        cards = f"{len(self.gpus)} x {first.name} ({first.memory_gb:.0f} GB)" if first else "no GPU"
        return f"{cards}, {self.num_cpus} CPU cores, {self.memory_gb:.0f} GB of memory"


def look() -> Hardware:
    """What is here."""
    return Hardware(gpus=gpus.look(), num_cpus=len(os.sched_getaffinity(0)), memory_gb=_memory_gb())


def machine_for(recipe: Recipe, here: Hardware) -> Machine:
    """The machine this computer is for `recipe`; `MachineError` with the arithmetic where it cannot be one."""
    if not here.gpus or recipe.sizes.num_parameters < NEEDS_GPU:
        return _cpu(recipe, here)
    _refuse_old(recipe, here)
    stages, reasons = plan(recipe), []
    for machine in _machines(recipe, here):
        reason = misfit(recipe, machine, here, stages)
        if reason is None:
            return machine
        reasons.append(reason)
    raise MachineError(f"{recipe.name} does not fit here ({here}): {reasons[-1]}; use more or larger GPUs")


def misfit(recipe: Recipe, machine: Machine, here: Hardware, stages: Sequence[Stage] | None = None) -> str | None:
    """Why the devices or memory found here are too few for `stages` of `recipe` (None: all) on `machine`; None where they are enough.

    Of a machine of several nodes this computer is one, or only starts them: what the others have is not known here. With Slurm it only
    hands over the jobs: the nodes have what the machine's file says.
    """
    if machine.slurm is not None:
        return memory.refusal(recipe, machine, stages, machine.memory_gb)
    needed = machine.num_devices // machine.num_nodes
    if machine.device == "cuda" and machine.num_nodes == 1 and len(here.gpus) < needed:
        return f"machine {machine.name} has {needed} GPU{'s' * (needed > 1)}, here is {str(here).partition(',')[0]}"
    smallest = min((gpu.memory_gb for gpu in here.gpus), default=machine.memory_gb)
    reason = memory.refusal(recipe, machine, stages, smallest if machine.device == "cuda" else here.memory_gb)
    host = memory.host_gb(recipe, machine, stages)
    if reason is None and machine.num_nodes == 1 and host > here.memory_gb:
        return f"training {recipe.name} keeps {host:.0f} GB in the host's memory, {here.memory_gb:.0f} GB are here"
    return reason


def _machines(recipe: Recipe, here: Hardware) -> Iterator[Machine]:
    """What the GPUs here can be, the best first: all that divide the batches, the largest micro-batch; then with the state on the host."""
    num = next(n for n in range(len(here.gpus), 0, -1) if _divides(recipe, n))
    strategies = ("none", "fsdp2_offload") if num == 1 else ("fsdp2", "fsdp2_offload")
    for sharding in strategies:
        for micro_batch in MICRO_BATCHES:
            if micro_batch == math.gcd(micro_batch, recipe.global_batch_size // num):
                yield _gpu_machine(recipe, here, num, sharding, micro_batch)


def _divides(recipe: Recipe, num_devices: int) -> bool:
    try:
        machines.check(machines.load("a100x8").model_copy(update={"num_devices": num_devices}), recipe)
    except MachineError:
        return False
    return True


def _gpu_machine(recipe: Recipe, here: Hardware, num: int, sharding: str, micro_batch: int) -> Machine:
    card = here.gpus[0]
    memory_gb = min(gpu.memory_gb for gpu in here.gpus)
    tflops, bandwidth = next((speed for part, speed in SPEEDS.items() if part in card.name), UNKNOWN_SPEED)
    tflops, bandwidth = tflops * card.share, bandwidth * card.share
    shared_by = _tensor_parallel(recipe, num, memory_gb)
    changes = {
        "name": NAME,
        "summary": f"{num} x {card.name}, {sharding.replace('_', ' with ').replace('none', 'one process')}, found here",
        "num_devices": num,
        "sharding": sharding,
        "micro_batch": micro_batch,
        "evaluate_batch": 16 if memory_gb > 40 else 4,
        "tensor_parallel": shared_by,
        "peak_tflops": tflops,
        "generate_tokens_per_second": TOKENS_A_TERABYTE * bandwidth,
        "memory_gb": memory_gb,
    }
    return machines.load("h100x1" if sharding == "none" else "a100x8").model_copy(update=changes)


def _tensor_parallel(recipe: Recipe, num_devices: int, memory_gb: float) -> int:
    """Devices that hold one engine's weights together, where the engine can divide them."""
    weights = _weights_gb(recipe)
    sizes = [n for n in (1, 2, 4, 8) if n <= num_devices and weights / n < machines.USABLE * memory_gb]
    return sizes[0] if sizes and recipe.engine == "vllm" else 1


def _weights_gb(recipe: Recipe) -> float:
    return (2 if recipe.precision == "bf16" else 4) * recipe.sizes.num_parameters / GB


def _cpu(recipe: Recipe, here: Hardware) -> Machine:
    if recipe.precision == "bf16" and recipe.sizes.num_parameters >= NEEDS_GPU:
        raise MachineError(
            f"{recipe.name} computes in bf16, which needs a GPU, and here is {here}; "
            "name a machine to plan for (`harness machines` lists them)"
        )
    threads = 1 if recipe.sizes.num_parameters < ONE_THREAD else here.num_cpus
    changes = {
        "name": NAME,
        "summary": f"{threads} thread{'s' * (threads > 1)} on CPU, fp32, found here",
        "num_threads": threads,
        "slots": here.num_cpus // threads,
        "slots_of": dict.fromkeys(get_args(machines.StageKind), 1) if threads == 1 else {},
        "peak_tflops": CPU_TFLOPS * threads,
        "generate_tokens_per_second": CPU_TOKENS * threads,
        "memory_gb": here.memory_gb,
    }
    machine, stages = machines.load("cpu").model_copy(update=changes), plan(recipe)
    for micro_batch in (machine.micro_batch, 4, 2, 1):
        machine = machine.model_copy(update={"micro_batch": micro_batch})
        reason = misfit(recipe, machine, here, stages)
        if reason is None:
            return machine
    raise MachineError(f"{recipe.name} does not fit here ({here}): {reason}; use a computer with more memory, or with a GPU")


def _refuse_old(recipe: Recipe, here: Hardware) -> None:
    old = [gpu for gpu in here.gpus if gpu.capability < BF16_SINCE]
    if old and recipe.precision == "bf16":
        raise MachineError(
            f"{recipe.name} computes in bf16, which needs compute capability {BF16_SINCE}; here is {old[0].name} with {old[0].capability}: "
            "use an Ampere GPU or a newer one"
        )


def _memory_gb() -> float:
    """The computer's memory, or the container's share of it."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return (whole if text == "max" else min(whole, int(text))) / GB
