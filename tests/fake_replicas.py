"""Replicas without a model, importable in an instant by the processes that tests start."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import MachineError
from harness.lm.replicas import Replica


def squares(folder: Path, kill_at: Sequence[int], always: bool = False) -> Replica:
    """A replica that leaves its pid in `folder` at each shard, and is killed by SIGKILL in the middle of a shard that holds `kill_at`.

    It is killed once, unless `always`. The file opened-PID tells that its engine was opened.
    """
    (folder / f"opened-{os.getpid()}").touch()

    def replica(items: Sequence[Any]) -> list[dict[str, Any]]:
        (folder / f"{os.getpid()}-{items[0]}").touch()
        time.sleep(0.05)
        for item in items:
            killed = folder / f"killed-{item}"
            if item in kill_at and (always or not killed.exists()):
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return [{"item": item, "square": item * item} for item in items]

    return replica


def failing(folder: Path) -> Replica:
    raise MachineError("out of device memory; lower the machine's generate_batch")


def environment_of(folder: Path) -> Replica:
    """A replica that tells the variables it was given."""
    return lambda items: [{"seen": os.environ.get("VLLM_TEST_REPLICA"), "pid": os.getpid()}]


def hanging(folder: Path) -> Replica:
    """A replica that leaves its pid in `folder` and then works for an hour."""

    def replica(items: Sequence[Any]) -> list[dict[str, Any]]:
        (folder / str(os.getpid())).touch()
        time.sleep(3600)
        return []

    return replica
