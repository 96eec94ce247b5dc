"""Progress of long work: a bar with rate and time left on a terminal, a plain line every few seconds otherwise.

Where several stages run side by side, each says its name in plain lines: their bars would overwrite each other.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_LINE_SECONDS = 15.0

Advance = Callable[[int], None]
_beside: list[str] = []


def side_by_side(stage_path: str) -> None:
    """From now on this process is one of several stages that run, this one at `stage_path`."""
    _beside[:] = [stage_path]


@contextmanager
def progress(label: str, total: int, unit: str) -> Iterator[Advance]:
    """`with progress("generate", 1000, "responses") as advance: advance(32)`."""
    if sys.stderr.isatty() and not _beside:
        with _bar(label, total, unit) as advance:
            yield advance
    else:
        yield _plain(" ".join([*_beside, label]), total, unit)


@contextmanager
def _bar(label: str, total: int, unit: str) -> Iterator[Advance]:
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]} {task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(label, total=total, unit=unit, rate="")

        def advance(num: int) -> None:
            bars.advance(task, num)
            done = bars.tasks[0].completed
            bars.update(task, rate=f"{done / max(time.monotonic() - began, 1e-9):.1f}/s")

        yield advance


def _plain(label: str, total: int, unit: str) -> Advance:
    began = last = time.monotonic()
    done = 0

    def advance(num: int) -> None:
        nonlocal done, last
        done += num
        now = time.monotonic()
        if now - last >= PLAIN_LINE_SECONDS or (done >= total and done > num):
            last = now
            rate = done / max(now - began, 1e-9)
            left = max(total - done, 0) / max(rate, 1e-9)
            print(f"  {label}: {done}/{total} {unit}, {rate:.1f}/s, {left:.0f} s left", file=sys.stderr, flush=True)

    return advance
