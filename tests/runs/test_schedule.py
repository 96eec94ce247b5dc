"""Stages side by side: inputs first, room respected, one failure leaves what runs to finish."""

from __future__ import annotations

import threading

import pytest

from harness.artifact import Stage, make_stage
from harness.contracts.stage_specs import ModelSpec
from harness.errors import StageError
from harness.recipe import ModelRef
from harness.runs import schedule

SPEC = ModelSpec(model=ModelRef(source="path", name="x"))


def graph(**inputs: str) -> list[Stage]:
    """Stages by name with the names of what they read, in an order in which inputs come first."""
    stages: dict[str, Stage] = {}
    for name, read in inputs.items():
        stages[name] = make_stage(name, "model", SPEC, {}, {path: stages[path] for path in read.split()})
    return list(stages.values())


class Recorder:
    """Work that notes what starts, what is finished by then, and how many slots are taken; the stages that `meet` wait for one another."""

    def __init__(self, fails: str = "", meet: tuple[str, ...] = ()) -> None:
        self.fails, self.meet = fails, meet
        self.barrier = threading.Barrier(max(1, len(meet)))
        self.started: list[str] = []
        self.finished: list[str] = []
        self.taken: set[int] = set()
        self.guard = threading.Lock()
        self.stops = 0

    def work(self, stage: Stage, slots: schedule.Slots) -> None:
        with self.guard:
            assert self.taken.isdisjoint(slots)
            self.taken |= set(slots)
            self.started.append(stage.path)
            assert set(stage.inputs.values()) <= set(self.finished)
        if stage.path in self.meet:
            self.barrier.wait(timeout=120)
        if stage.path == self.fails:
            with self.guard:
                self.taken -= set(slots)
            raise StageError(f"{stage.path} stopped")
        with self.guard:
            self.taken -= set(slots)
            self.finished.append(stage.path)

    def stop(self) -> None:
        self.stops += 1


def test_with_room_for_one_the_plan_s_order_holds() -> None:
    """Promise: on a machine with one slot stages run one after the other, in the order of the plan."""
    stages, recorder = graph(a="", b="a", c="a", d="c"), Recorder()
    assert schedule.run(stages, 1, lambda _: 1, recorder.work, recorder.stop) == []
    assert recorder.started == recorder.finished == ["a", "b", "c", "d"]


def test_two_run_at_once_where_there_is_room() -> None:
    """Promise: two stages whose inputs are done really run together (each waits for the other), and inputs come first."""
    recorder = Recorder(meet=("b", "c"))
    assert schedule.run(graph(a="", b="a", c="a"), 2, lambda _: 1, recorder.work, recorder.stop) == []
    assert sorted(recorder.finished) == ["a", "b", "c"]


def test_what_most_wait_for_goes_first_and_is_not_overtaken() -> None:
    """Promise: the training that others wait for starts before evaluations, and gets all slots although evaluations would fit."""
    stages, recorder = graph(sft="", eval1="sft", eval2="sft", train="sft", after="train"), Recorder()
    needs = {"train": 2}
    schedule.run(stages, 2, lambda stage: needs.get(stage.path, 1), recorder.work, recorder.stop)
    assert recorder.started[:2] == ["sft", "train"]


def test_a_failure_lets_what_runs_finish_and_starts_nothing_new() -> None:
    """Promise: what runs beside a stage that fails is finished and kept, what waits is not begun, and the failure is returned."""
    stages = graph(a="", b="a", c="a", d="b", e="c")
    recorder = Recorder(fails="b", meet=("b", "c"))
    (failure,) = schedule.run(stages, 2, lambda _: 1, recorder.work, recorder.stop)
    assert (failure.stage.path, str(failure.error)) == ("b", "b stopped")
    assert "c" in recorder.finished
    assert "d" not in recorder.started
    assert recorder.stops == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError()])
def test_an_interruption_and_a_defect_stop_what_runs(error: BaseException) -> None:
    """Promise: both are raised as they are, after `stop` was called once."""
    recorder = Recorder()

    def broken(stage: Stage, slots: schedule.Slots) -> None:
        raise error

    with pytest.raises(type(error)):
        schedule.run(graph(a="", b="a"), 2, lambda _: 1, broken, recorder.stop)
    assert recorder.stops == 1
