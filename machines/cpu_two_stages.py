"""Two CPU cores, a stage on each: what one row's evaluations do beside the next one's training, small enough to try at home."""

from typing import get_args

from harness.machine import StageKind, load

changes = {
    "name": "cpu-two-stages",
    "summary": "two CPU cores, two stages side by side, one thread each",
    "slots": 2,
    "slots_of": dict.fromkeys(get_args(StageKind), 1),
}
machine = load("cpu1").model_copy(update=changes)
