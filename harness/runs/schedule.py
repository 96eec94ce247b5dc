"""Stages side by side: each starts once the stages it reads are done and the machine has room for it.

With room for several, the work that most other work waits for goes first, so training never waits behind evaluations; what follows in
line does not overtake it. With room for one the plan's order holds. Where a stage fails nothing new starts, and what runs is finished.
The order in which stages happen to finish reaches no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import NamedTuple

from harness.artifact import Stage
from harness.errors import HarnessError

Slots = tuple[int, ...]
"""The numbers of the slots a stage has, counted from 0."""


class Failure(NamedTuple):
    """A stage that ended with an error for the user."""

    stage: Stage
    error: HarnessError


def run(
    stages: Sequence[Stage], num_slots: int, needs: Callable[[Stage], int], work: Callable[[Stage, Slots], None], stop: Callable[[], None]
) -> list[Failure]:
    """Do the `work` of each stage in a thread of its own, and return what failed, in the plan's order.

    A stage takes as many of the `num_slots` slots as it `needs`. Inputs that are not among `stages` count as done. An interruption, or a
    defect in `work`, starts nothing new, calls `stop`, waits for what runs, and is raised then.
    """
    queue = _Queue(stages, num_slots, needs)
    with ThreadPoolExecutor(max_workers=num_slots) as pool:
        try:
            while queue.start(lambda stage, slots: pool.submit(work, stage, slots)):
                queue.collect()
        except BaseException:
            stop()
            raise
    return [Failure(stage, queue.failed[stage.path]) for stage in stages if stage.path in queue.failed]


class _Queue:
    """Which stages wait, run, are done or have failed, and which slots are free."""

    def __init__(self, stages: Sequence[Stage], num_slots: int, needs: Callable[[Stage], int]) -> None:
        self.needs = needs
        self.waiting = _by_urgency(stages) if num_slots > 1 else list(stages)
        self.missing = {stage.path for stage in stages}
        self.failed: dict[str, HarnessError] = {}
        self.running: dict[Future[None], tuple[Stage, Slots]] = {}
        self.free = tuple(range(num_slots))

    def start(self, submit: Callable[[Stage, Slots], Future[None]]) -> bool:
        """Start what is ready, in order, until one does not fit; whether anything runs."""
        ready = [stage for stage in self.waiting if self.missing.isdisjoint(stage.inputs.values())]
        for stage in [] if self.failed else ready:
            num = self.needs(stage)
            if num > len(self.free):
                break
            slots, self.free = self.free[:num], self.free[num:]
            self.waiting.remove(stage)
            self.running[submit(stage, slots)] = (stage, slots)
        return bool(self.running)

    def collect(self) -> None:
        """Wait until something ends, and take its slots back."""
        for future in wait(self.running, return_when=FIRST_COMPLETED).done:
            stage, slots = self.running.pop(future)
            self.free = tuple(sorted((*self.free, *slots)))
            error = future.exception()
            if isinstance(error, HarnessError):
                self.failed[stage.path] = error
            elif error is not None:
                raise error
            else:
                self.missing.remove(stage.path)


def _by_urgency(stages: Sequence[Stage]) -> list[Stage]:
    """Those that most other stages wait for, directly or not, come first; among equals the plan's order."""
    readers: dict[str, set[str]] = {stage.path: set() for stage in stages}
    for stage in reversed(stages):  # in a plan, readers come after what they read
        for path in stage.inputs.values():
            if path in readers:
                readers[path] |= {stage.path, *readers[stage.path]}
    return sorted(stages, key=lambda stage: -len(readers[stage.path]))
