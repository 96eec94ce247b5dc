"""What bench/gpu.py expects of each figure, and why: no measurement, none of it ran on a GPU.

Float noise comes from what CPUs show, speed from what `harness plan` assumes of machines/h100x1.py, memory from harness/runs/needs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from harness.machine import USABLE


class Expected(NamedTuple):
    """The range of a figure and where it comes from."""

    unit: str
    least: float
    most: float
    because: str

    def __str__(self) -> str:
        """Example: 'at least 0.35'."""
        ends = [f"at least {self.least:g}"] * (self.least > -math.inf) + [f"at most {self.most:g}"] * (self.most < math.inf)
        return ", ".join(ends)


def at_least(value: float, unit: str, because: str) -> Expected:
    return Expected(unit, value, math.inf, because)


def at_most(value: float, unit: str, because: str) -> Expected:
    return Expected(unit, -math.inf, value, because)


SHARE = "of the card's peak in bf16"
PLANNED, SPEED = "what `plan` assumes for h100x1", "7.24e9 parameters at the 4000 tokens/s that h100x1 assumes for 1e9"
EXPECTED: dict[str, dict[str, Expected]] = {
    "parity": {
        "log-probability, packed less padded": at_most(1e-3, "nats", "fp32 sums of up to 440 tokens; 3e-5 on CPU"),
        "gradient, packed less padded": at_most(1e-4, "of its norm", "5e-6 on CPU"),
    },
    "noise": {
        "margin, 16 groups together less each alone: sd": at_most(0.5, "nats", "bf16 keeps 8 bits; check_start allows a mean of 1"),
        "the same: mean": Expected("nats", -0.2, 0.2, "noise has no sign: 64 groups at that sd"),
    },
    "adapters": {
        "opponent's pass": at_least(0.35, SHARE, PLANNED),
        "first loss": Expected("nats", 0.673, 0.713, "ln 2: policy and opponent are one"),
        "share": at_least(0.35, SHARE, PLANNED),
        "peak memory": at_most(62, "GB", "harness/runs/needs/memory.py for zephyr-7b-lora on h100x1"),
    },
    "fsdp2": {
        "opponent's pass": at_least(0.35, SHARE, PLANNED),
        "first loss": Expected("nats", 0.673, 0.713, "ln 2"),
        "share": at_least(0.35, SHARE, PLANNED),
        "peak memory": at_most(61, "GB", "harness/runs/needs/memory.py: 16 layers, one shard"),
        "RMSProp's step": at_most(60, "ms", "3.75e9 parameters: 75 GB read and written at 3.35 TB/s is 22 ms"),
        "norm of the gradient": at_most(30, "ms", "15 GB read at 3.35 TB/s is 4.5 ms"),
    },
    "state": {
        "size": at_most(8.1, "bytes a parameter", "weights and RMSProp's squares in fp32"),
        "written": at_least(0.5, "GB/s", "a disk of 1 GB/s"),
        "read": at_least(0.5, "GB/s", "a disk of 1 GB/s"),
        "steps after loading": Expected("steps", 2, 2, "as saved"),
    },
    "generate": {
        "128 prompts of 170 tokens": at_least(552, "new tokens/s", SPEED),
        "64 prompts of 170 tokens": at_least(276, "new tokens/s", "half of it: a step costs the same"),
        "128 prompts of 3500 tokens: peak memory": at_most(USABLE * 80, "GB", "what batches are cut for"),
    },
    "evaluate": {
        "scoring, four endings a question": at_least(0.35, SHARE, PLANNED),
        "decoding 64 prompts of 1100 tokens": at_least(552, "new tokens/s", SPEED),
    },
    "small": {
        "questions that share rows": at_least(50, "questions/s", "15 were seen on an H100, a trunk each, four stages at a time"),
        "over a trunk for each question": at_least(2, "times as fast", "three questions a pass, not two passes a question"),
    },
}
"""{check: {figure: what we expect}}; docs/benchmarks.md shows it."""


def line(check: str, figure: str, value: float) -> str:
    """Example: 'parity: gradient, packed less padded 5.1e-06 of its norm (at most 0.0001): as expected'."""
    expected = EXPECTED[check][figure]
    verdict = "as expected" if is_expected(check, figure, value) else "NOT as expected"
    return f"{check}: {figure} {value:.4g} {expected.unit} ({expected}: {expected.because}): {verdict}"


def is_expected(check: str, figure: str, value: float) -> bool:
    expected = EXPECTED[check][figure]
    return expected.least <= value <= expected.most
