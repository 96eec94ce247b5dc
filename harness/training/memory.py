"""How much memory this process took at most, and which setting of the machine to turn when there is not enough."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from harness.errors import MachineError
from harness.machine import Machine

CPU_MESSAGE = "can't allocate memory"
"""What torch's CPU allocator says; the kernel usually kills the process before, which the runner reports."""


def peak_memory_gb(machine: Machine) -> float:
    """Of this process since its start: allocated on its GPU, or resident on the CPU."""
    if machine.device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


@contextmanager
def naming_the_setting(machine: Machine, setting: str) -> Iterator[None]:
    """Out of memory inside becomes a `MachineError` that says to lower `setting`, or what to do where it is 1 already."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and CPU_MESSAGE not in str(error):
            raise
        size = getattr(machine, setting)
        ways = [f"lower {setting} (now {size})"] if size > 1 else []
        if not machine.gradient_checkpointing and setting == "micro_batch":
            ways.append("set gradient_checkpointing=True")
        ways.append("take more devices with a sharding launcher (machines/a100x8.py, a100x8_zero3.py)")
        hint = f"in its file {', or '.join(ways)}: none of it changes a number"
        raise MachineError(f"machine {machine.name!r} is out of memory; {hint}") from None
