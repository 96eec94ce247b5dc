"""A released checkpoint's `trainer_state.json` over our training curve: the first step where the two part beyond noise.

The transformers trainer logs the mean since its last line, so ours is averaged over the same steps. Two runs over the same batches differ
by float noise, far less than a curve differs from step to step; over other batches they differ by about as much as that. They part at the
first logged step whose difference passes a fifth of their curve's own noise from step to step, where most of the next ten do too. What
differs after that on average (t test over the logged steps, corrected for the number of quantities) is no matter of other batches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from harness.artifact import LOG_FILE, RunDir
from harness.contracts.run_files import read_lines, size_of
from harness.errors import InputError
from harness.evaluation.paired import t_interval
from harness.evaluation.statistics import CONFIDENCE
from harness.files import NO_JSON

QUANTITIES = {
    "loss": "loss",
    "rewards/real": "rewards/real",
    "rewards/generated": "rewards/generated",
    "rewards/accuracies": "rewards/accuracy",
    "rewards/margins": "rewards/margin",
    "logps/real": "logps/real",
    "logps/generated": "logps/generated",
    "learning_rate": "learning_rate",
}
"""Their name (TRL's, and the release's) -> ours."""
NEXT_RATE = "learning_rate"
"""Logged by the trainer after the step: the rate the next one is taken with."""
NOISE_SHARE, FLOAT_NOISE, WINDOW = 0.2, 1e-3, 10


class State(NamedTuple):
    """What a `trainer_state.json` says: its training lines in order, and the steps and epochs it was scheduled for, None where not said."""

    lines: list[dict[str, Any]]
    max_steps: float | None
    num_epochs: float | None


class Point(NamedTuple):
    """A logged step: ours and theirs over the same steps."""

    step: int
    ours: float
    theirs: float

    @property
    def difference(self) -> float:
        return self.ours - self.theirs


class Curve(NamedTuple):
    """One quantity over `num_points` logged steps: where the runs part (None: nowhere), and ours - theirs from there on, or in all.

    `low` and `high` are a 95 % t interval over the logged steps, `p` is two-sided, times the number of quantities
    compared (Bonferroni).
    """

    quantity: str
    num_points: int
    parts_at: int | None
    ours: float
    theirs: float
    difference: float
    low: float | None
    high: float | None
    p: float | None

    @property
    def is_systematic(self) -> bool:
        """Whether what differs after the parting is more than other batches would give."""
        return self.parts_at is not None and self.p is not None and self.p <= 1 - CONFIDENCE


class Comparison(NamedTuple):
    """All quantities, and what they say in words."""

    curves: list[Curve]
    conclusions: list[str]


def compare(run: RunDir, row: str, path: Path) -> Comparison:
    """The training of `row` beside the state at `path`. Raises InputError where either is missing or damaged or shares no step."""
    state, log = read_state(path), _log(run, row)
    curves = [curve for theirs, ours in QUANTITIES.items() for curve in _curve(ours, _points(log, state, theirs, ours))]
    if not curves:
        raise InputError(f"{path.name} and the log of {row} share no logged step; expected the lines of one training of the same kind")
    curves = [curve if curve.p is None else curve._replace(p=min(1.0, curve.p * len(curves))) for curve in curves]  # Bonferroni
    return Comparison(curves, [_schedule(run, row, log, state), *_conclusions(curves)])


def read_state(path: Path) -> State:
    """The training lines of a `trainer_state.json`; its evaluations are left out."""
    try:
        found = json.loads(path.read_bytes())
        lines = [line for line in found["log_history"] if isinstance(line.get("step"), int) and "loss" in line]
        return State(lines, _number(found.get("max_steps")), _number(found.get("num_train_epochs")))
    except FileNotFoundError:
        raise InputError(f"{path} is not here; expected the trainer_state.json of a checkpoint") from None
    except (*NO_JSON, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{path.name} is no trainer state ({reason}); expected the trainer's JSON with `log_history`") from None


def _log(run: RunDir, row: str) -> dict[int, dict[str, Any]]:
    name = f"{row}/train/{LOG_FILE}"
    if size_of(run.path, name) is None:
        raise InputError(f"{run.path.name} has no log of {row}'s training ({name}); name a row that was trained here")
    return {line["step"]: line for line in read_lines(run.path, name) if "step" in line}


def _points(log: Mapping[int, Mapping[str, Any]], state: State, theirs: str, ours: str) -> list[Point]:
    """Their step s says that s steps are done: it speaks about ours from the line before up to s - 1."""
    points = []
    for before, line in pairwise([{"step": 0}, *state.lines]):
        covered = [line["step"]] if ours == NEXT_RATE else [*range(before["step"], line["step"])]
        values = [value for step in covered if (value := log.get(step, {}).get(ours)) is not None]
        found = _number(line.get(theirs))
        if covered and len(values) == len(covered) and found is not None:
            points.append(Point(line["step"], fmean(values), found))
    return points


def _number(value: object) -> float | None:
    """`value` where it is a finite number."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _curve(quantity: str, points: Sequence[Point]) -> Iterator[Curve]:
    """The comparison of one quantity; nothing where it was not logged by both."""
    if not points:
        return
    start = _parting(points)
    after = points[start or 0 :]
    found = t_interval([point.difference for point in after], "t over logged steps")
    yield Curve(
        quantity=quantity,
        num_points=len(points),
        parts_at=None if start is None else points[start].step,
        ours=fmean(point.ours for point in after),
        theirs=fmean(point.theirs for point in after),
        difference=fmean(point.difference for point in after),
        low=found.low,
        high=found.high,
        p=None if start is None else found.p,
    )


def _parting(points: Sequence[Point]) -> int | None:
    """The first point beyond noise, or None."""
    theirs = [point.theirs for point in points]
    limit = max(NOISE_SHARE * noise(theirs), FLOAT_NOISE * max(map(abs, theirs)))
    beyond = [abs(point.difference) > limit for point in points]
    windows = ((start, beyond[start : start + WINDOW]) for start in range(len(beyond)) if beyond[start])
    return next((start for start, window in windows if 2 * sum(window) > len(window)), None)


def noise(values: Sequence[float]) -> float:
    """A curve's standard deviation from step to step, whatever its trend: robust, from second differences; 0 below three values."""
    bends = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    return median(bends) / (0.6745 * math.sqrt(6)) if bends else 0.0


def _schedule(run: RunDir, row: str, log: Mapping[int, Mapping[str, Any]], state: State) -> str:
    launch = run.launch(f"{row}/train")
    spec = launch.stage.spec if launch else {}
    steps_per_epoch = sum(line.get("epoch") == 0 for line in log.values())
    ours = spec.get("num_steps") or steps_per_epoch * spec.get("schedule_epochs", 0)
    last = state.lines[-1]["step"] if state.lines else 0
    epochs = "" if state.num_epochs is None else f" ({state.num_epochs:g} epochs)"
    scheduled = "not said" if state.max_steps is None else f"{state.max_steps:.0f}"
    theirs = f"theirs: logged up to step {last} of {scheduled} scheduled{epochs}"
    return f"{theirs}; ours: {len(log)} steps of {ours or 'not said'}"


def _conclusions(curves: Sequence[Curve]) -> Iterator[str]:
    parted = [curve for curve in curves if curve.parts_at is not None]
    if not parted:
        yield f"the curves agree in all {max(curve.num_points for curve in curves)} logged steps: same batches, weights and settings"
        return
    first = min(curve.parts_at for curve in parted if curve.parts_at is not None)
    where = ", ".join(curve.quantity for curve in parted if curve.parts_at == first)
    yield f"the curves part beyond noise at step {first} ({where})"
    systematic = [curve for curve in parted if curve.is_systematic]
    told = "; ".join(f"{curve.quantity} {curve.difference:+.3g} [{curve.low:+.3g}, {curve.high:+.3g}]" for curve in systematic)
    if systematic:
        yield f"after that ours differs on average: {told}: other settings, weights or data"
    else:
        yield "after that they differ by no more than other batches would give: another order of the same data"
