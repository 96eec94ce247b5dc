"""Differences between rows: each task against `sft`, and the last iteration against `sft` and every other baseline, in plain words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist

from harness.analysis.comparability import AVERAGE
from harness.analysis.published import Claim
from harness.analysis.published_gains import standard_error
from harness.analysis.scores import RunScores
from harness.analysis.table_schema import Column, Comparison, Delta
from harness.contracts import Score
from harness.evaluation.paired import Paired
from harness.evaluation.statistics import CONFIDENCE
from harness.rows import contests, opponent_of

REFERENCE = "sft"
GOAL_MET = "goal met"
NOISE = "within noise"
UNDECIDED = "undecided: too little spread for an interval"
RULE = (
    "95 % intervals, one comparison at a time: of 20 differences that are none, one leaves 0 out by chance; "
    "p is below 0.05 exactly where the interval leaves 0 out"
)


def delta(against: str, paired: Paired | None) -> Delta | None:
    """The difference as it is written down: six significant digits, so that rounding noise never reaches a file."""
    if paired is None or paired.difference is None:
        return None
    return Delta(
        against=against,
        difference=_rounded(paired.difference),
        low=rounded(paired.low),
        high=rounded(paired.high),
        n=paired.n,
        p=rounded(paired.p),
        method=paired.method,
    )


def comparisons(scores: RunScores) -> Iterator[Comparison]:
    """The last iteration against `sft` and every other baseline, and what went on from an iteration against that iteration."""
    for row, against in contests(scores.recipe):
        yield compare_rows(scores, row, against)


def iteration_steps(scores: RunScores) -> Iterator[Comparison]:
    """Each iteration against the one before it, iteration 0 against `sft`."""
    for t in range(len(scores.recipe.iterations)):
        step = compare_rows(scores, f"iter{t}", opponent_of(t))
        verdict = step.verdict if step.mean is None or step.missing else direction(step.mean, lower_is_better=False)
        yield step.model_copy(update={"verdict": verdict})


def from_published(score: Score, claim: Claim) -> Delta | None:
    """`score - claim`, unpaired: the errors of both add up; the published one is `standard_error`."""
    if score.value is None:
        return None
    theirs = standard_error(claim)
    reach = None if score.stderr is None else NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.hypot(score.stderr, theirs or 0.0)
    difference = score.value - claim.value
    return Delta(
        against=claim.table,
        difference=_rounded(difference),
        low=None if reach is None else _rounded(difference - reach),
        high=None if reach is None else _rounded(difference + reach),
        n=score.n,
        p=None,
        method="unpaired, both errors" if theirs is not None else "unpaired, our error only: theirs is unknown",
    )


def compare_rows(scores: RunScores, row: str, against: str) -> Comparison:
    """`row` against `against` on every task, and on the mean over the accuracy tasks."""
    tasks = {column.label: delta(against, scores.difference(row, against, column).paired) for column in scores.tasks}
    if scores.leaderboard:
        tasks[AVERAGE] = delta(against, scores.average_difference(row, against, scores.leaderboard))
    present = [column for column in scores.accuracy_tasks if tasks[column.label] is not None]
    mean = delta(against, scores.average_difference(row, against, present)) if present else None
    missing = tuple(column.label for column in scores.accuracy_tasks if column not in present)
    return Comparison(
        row=row,
        against=against,
        tasks={label: difference for label, difference in tasks.items() if difference is not None},
        mean=mean,
        mean_over=tuple(column.label for column in present),
        missing=missing,
        verdict=goal(mean, missing),
    )


def goal(mean: Delta | None, missing: Sequence[str]) -> str:
    """Whether the 95 % interval of the mean lies above 0, in plain words."""
    if missing:
        return f"undecided: no difference yet on {', '.join(missing)}"
    if mean is None or mean.low is None or mean.high is None:
        return UNDECIDED
    if mean.low > 0:
        return f"{GOAL_MET}: the interval lies above 0"
    if mean.high < 0:
        return "goal not met: the interval lies below 0"
    return f"goal not met: {NOISE}, the interval contains 0"


def direction(difference: Delta, *, lower_is_better: bool) -> str:
    """'better', 'worse' or 'within noise', by the interval; undecided without one."""
    if difference.low is None or difference.high is None:
        return UNDECIDED
    if difference.low <= 0 <= difference.high:
        return NOISE
    return "better" if (difference.difference > 0) != lower_is_better else "worse"


def rounded(value: float | None) -> float | None:
    """Six significant digits, as numbers stand in files; None stays None."""
    return None if value is None else _rounded(value)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}") + 0.0


DECIMALS = {"percent": 2, "points": 2, "nats": 3, "own": 3}
ABSENT = "–"  # noqa: RUF001


def delta_text(difference: Delta | None, column: Column | None, *, p: bool = False) -> str:
    """The difference with its interval and, where `p` asks for it, its p; a dash where there is none."""
    if difference is None:
        return ABSENT
    digits = DECIMALS[column.unit] if column else 2
    numbers = [value for value in (difference.difference, difference.low, difference.high) if value is not None]
    shown = [f"{value:+z.{digits}f}" for value in numbers]
    if any(numbers) and not any(map(float, shown)):  # too small for these digits: a sign and a size all the same
        shown = [f"{value:+.1e}" for value in numbers]
    text = shown[0] + (f" [{shown[1]}, {shown[2]}]" if len(shown) == 3 else "")
    return text + (f" p {_p(difference.p)}" if p and difference.p is not None else "")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"
