"""Differences between rows: each task against `sft`, and the last iteration against `sft` and every other baseline, in plain words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

from harness.analysis.comparability import AVERAGE
from harness.analysis.published import Claim
from harness.analysis.published_gains import standard_error
from harness.analysis.scores import Scores, Source, leaderboard, other_rules, sources
from harness.analysis.table_schema import Cell, Column, Comparison, Delta
from harness.contracts import Score
from harness.evaluation.statistics import CONFIDENCE, Paired, holm, mean_of_differences, paired_difference
from harness.plan import contests
from harness.recipe import Recipe

REFERENCE = "sft"
GOAL_MET = "goal met"
NOISE = "within noise"


class Difference(NamedTuple):
    """A paired difference, or why there is none."""

    paired: Paired | None
    note: str | None = None


def difference(row: str, against: str, source: Source, scores: Scores) -> Difference:
    """`row - against` on one task; None where a score or its per-question values are missing or the rules differ."""
    key = (row, against, source.label)
    if key not in scores.differences:
        scores.differences[key] = _difference(row, against, source, scores)
    found: Difference = scores.differences[key]
    return found


def _difference(row: str, against: str, source: Source, scores: Scores) -> Difference:
    ours, theirs = scores.get((row, source.label)), scores.get((against, source.label))
    if ours is None or theirs is None:
        return Difference(None)
    if other_rules(ours, theirs):
        return Difference(None, f"no difference from {against}: made under other rules")
    paired = paired_difference(ours.values, theirs.values, source.cluster)
    if ours.value is None or theirs.value is None:
        return Difference(None)
    if paired.difference is None:
        return Difference(None, f"no difference from {against}: no question is scored in both")
    return Difference(paired, _weighting(ours, theirs, paired))


def average_difference(row: str, against: str, tasks: Sequence[Source], scores: Scores) -> Paired | None:
    """`row - against` for the unweighted mean over `tasks`; None unless all of them have a difference."""
    paired = [difference(row, against, source, scores).paired for source in tasks]
    known = [one for one in paired if one is not None]
    return mean_of_differences(known) if known and len(known) == len(paired) else None


def delta(against: str, paired: Paired | None) -> Delta | None:
    """The difference as it is written down: six significant digits, so that rounding noise never reaches a file."""
    if paired is None or paired.difference is None:
        return None
    return Delta(
        against=against,
        difference=_rounded(paired.difference),
        low=None if paired.low is None else _rounded(paired.low),
        high=None if paired.high is None else _rounded(paired.high),
        n=paired.n,
        p=None if paired.p is None else _rounded(paired.p),
        method=paired.method,
    )


def with_holm(cells: Sequence[Cell]) -> list[Cell]:
    """`cells` with their differences' p corrected for the number of differences in the table."""
    corrected = holm([cell.delta.p if cell.delta else None for cell in cells])
    return [
        cell.model_copy(update={"delta": cell.delta.model_copy(update={"p_holm": _rounded(p)})}) if cell.delta and p is not None else cell
        for cell, p in zip(cells, corrected, strict=True)
    ]


def comparisons(recipe: Recipe, columns: Sequence[Column], scores: Scores) -> Iterator[Comparison]:
    """The last iteration against `sft` and every other baseline, and what went on from an iteration against that iteration."""
    for row, against in contests(recipe):
        yield compare(recipe, columns, scores, row, against)


def gains(recipe: Recipe, columns: Sequence[Column], scores: Scores) -> Iterator[Comparison]:
    """Each iteration against the one before it, iteration 0 against `sft`."""
    for t in range(len(recipe.iterations)):
        found = compare(recipe, columns, scores, f"iter{t}", f"iter{t - 1}" if t else REFERENCE)
        verdict = found.verdict if found.mean is None or found.missing else word(found.mean, lower_is_better=False)
        yield found.model_copy(update={"verdict": verdict})


def from_published(score: Score, claim: Claim) -> Delta | None:
    """`score - claim`, unpaired: the errors of both add up; the published one is `gains.standard_error`."""
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


def compare(recipe: Recipe, columns: Sequence[Column], scores: Scores, row: str, against: str) -> Comparison:
    """`row` against `against` on every task, and on the mean over the accuracy tasks."""
    by_label = {source.label: source for source in sources(recipe)}
    tasks = {label: delta(against, difference(row, against, source, scores).paired) for label, source in by_label.items()}
    if leaderboard(recipe):
        tasks[AVERAGE] = delta(against, average_difference(row, against, leaderboard(recipe), scores))
    accuracy = [c.label for c in columns if c.is_accuracy and c.label in by_label]
    present = [label for label in accuracy if tasks[label] is not None]
    mean = delta(against, average_difference(row, against, [by_label[label] for label in present], scores)) if present else None
    missing = tuple(label for label in accuracy if label not in present)
    return Comparison(
        row=row,
        against=against,
        tasks={label: found for label, found in tasks.items() if found is not None},
        mean=mean,
        mean_over=tuple(present),
        missing=missing,
        verdict=goal(mean, missing),
    )


def goal(mean: Delta | None, missing: Sequence[str]) -> str:
    """Whether the 95 % interval of the mean lies above 0, in plain words."""
    if missing:
        return f"undecided: no difference yet on {', '.join(missing)}"
    if mean is None or mean.low is None or mean.high is None:
        return "undecided: too few questions for an interval"
    if mean.low > 0:
        return f"{GOAL_MET}: the interval lies above 0"
    if mean.high < 0:
        return "goal not met: the interval lies below 0"
    return f"goal not met: {NOISE}, the interval contains 0"


def word(found: Delta, *, lower_is_better: bool) -> str:
    """'better', 'worse' or 'within noise', by the interval."""
    if found.low is None or found.high is None:
        return "too few questions for an interval"
    if found.low <= 0 <= found.high:
        return NOISE
    return "better" if (found.difference > 0) != lower_is_better else "worse"


def _weighting(ours: Score, theirs: Score, paired: Paired) -> str | None:
    """A note where the score is not the mean over its questions, so that the table's values do not subtract to the difference."""
    if ours.value is None or theirs.value is None or paired.difference is None or ours.n_unscored or theirs.n_unscored:
        return None
    if math.isclose(ours.value - theirs.value, paired.difference, rel_tol=1e-3, abs_tol=1e-3):
        return None
    return "the difference weighs every question alike, the score does not"


def _rounded(value: float) -> float:
    return float(f"{value:.6g}") + 0.0


DECIMALS = {"percent": 2, "points": 2, "nats": 3}
ABSENT = "–"  # noqa: RUF001


def delta_text(found: Delta | None, column: Column | None, *, p: bool = False) -> str:
    if found is None:
        return ABSENT
    digits = DECIMALS[column.unit] if column else 2
    text = f"{found.difference:+z.{digits}f}"
    if found.low is not None and found.high is not None:
        text += f" [{found.low:+z.{digits}f}, {found.high:+z.{digits}f}]"
    return text + (f" p {_p(found.p_holm)}" if p and found.p_holm is not None else "")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"
