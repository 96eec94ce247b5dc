"""SIGTERM, with which schedulers announce that a job must end: the processes agree on the step after which they save and leave."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import NoReturn

import torch
from accelerate import Accelerator

from harness.errors import STOPPED_EXIT


class Wish(IntEnum):
    """What a process wants to be done between two steps; the greatest of all processes' wishes is what all do."""

    GO_ON = 0
    SAVE = 1
    STOP = 2


@contextmanager
def noticing_sigterm() -> Iterator[Callable[[], bool]]:
    """Inside, SIGTERM does not end the process; the function given says whether one has come."""
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)


def agree(accelerator: Accelerator, wish: Wish) -> Wish:
    """The greatest wish among the processes."""
    wishes = accelerator.gather(torch.tensor([int(wish)], device=accelerator.device))
    return Wish(int(wishes.max()))


def leave(accelerator: Accelerator, saved: str) -> NoReturn:
    """End the process with the code of a stage that was told to stop; `saved` says what lies on disk."""
    if accelerator.is_main_process:
        print(f"  told to stop (SIGTERM): {saved}; the same command continues it", file=sys.stderr, flush=True)
    sys.exit(STOPPED_EXIT)
