"""One H100-80G for models of some 1e8 parameters, whose kernels are too small to fill it: eight stages side by side share the card."""

from typing import get_args

from harness.machine import StageKind, load

changes = {
    "name": "h100x1-small",
    "summary": "one H100-80G, bf16, eight stages of a small model side by side",
    "num_threads": 2,
    "slots": 8,
    "slots_of": dict.fromkeys(get_args(StageKind), 1),
    "gradient_checkpointing": False,
    "memory_gb": 10.0,
}
machine = load("h100x1").model_copy(update=changes)
