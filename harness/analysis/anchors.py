"""Checkpoints somebody else published, evaluated here and set beside their published figures.

The weights are the same, so a difference is never one of training: it is the evaluation's (rules, engine, precision) or, where only
some of the questions were asked, chance. An anchors recipe runs through the same plan, runner and tables as any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.analysis.comparability import AVERAGE, published_claims, rules_against
from harness.analysis.published import Claim
from harness.analysis.scores import Scores, Source, leaderboard, read_scores, sources
from harness.contracts import Score
from harness.errors import RecipeError
from harness.evaluation.statistics import Estimate, mean_of_tasks, t_of
from harness.paper import NOT_STATED
from harness.recipe import Anchor, Figure, Recipe

ROUNDING = 0.005
"""Published scores have two decimals; MT-Bench's too."""


class Comparison(NamedTuple):
    """One figure of one anchor. `difference` is ours - published, in the task's unit; `outcome` says in words what it can mean."""

    row: str
    task: str
    ours: float | None
    stderr: float | None
    n: int | None
    published: float
    source: str
    difference: float | None
    outcome: str


def require(recipe: Recipe) -> None:
    """Raise `RecipeError` for a recipe that names no anchors."""
    if not recipe.anchors:
        raise RecipeError(
            f"recipe {recipe.name} names no anchors; expected one such as zephyr-7b-anchors, "
            "or a file that says replace(base, name=..., iterations=(), anchors={...})"
        )


def compare(recipe: Recipe, run: Path) -> list[Comparison]:
    """Every published figure of every anchor beside our score of it, read from the run's records."""
    scores = read_scores(run, recipe)
    return [found for row, anchor in recipe.anchors.items() for found in _anchor(recipe, row, anchor, scores)]


def rows(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """The comparisons as a printed table."""
    return [
        {
            "anchor": one.row,
            "task": one.task,
            "ours": None if one.ours is None else f"{one.ours:.2f}" + ("" if one.stderr is None else f" ± {one.stderr:.2f}"),
            "n": one.n,
            "published": f"{one.published:.2f}",
            "source": one.source,
            "difference": None if one.difference is None else f"{one.difference:+.2f}",
            "outcome": one.outcome,
        }
        for one in comparisons
    ]


def conclusions(comparisons: Sequence[Comparison]) -> list[str]:
    """One line for each source: how far our evaluation is from it, on average over the figures that have both numbers."""
    lines = []
    for source in dict.fromkeys(one.source for one in comparisons):
        found = [one.difference for one in comparisons if one.source == source and one.difference is not None and one.task != AVERAGE]
        if found:
            mean, largest = sum(found) / len(found), max(found, key=abs)
            lines.append(f"{source}: ours - theirs is {mean:+.2f} on average over {len(found)} figures, at most {largest:+.2f}")
        else:
            lines.append(f"{source}: nothing to compare yet")
    return lines


def notes(recipe: Recipe) -> list[str]:
    """What the recipe says about the anchors' weights, and which are not run because they cannot be pinned."""
    return [f"{row}{'' if anchor.model else ' is not run'}: {anchor.note}" for row, anchor in recipe.anchors.items() if anchor.note]


def _anchor(recipe: Recipe, row: str, anchor: Anchor, scores: Scores) -> Iterator[Comparison]:
    for source in sources(recipe):
        score = scores.get((row, source.label))
        figures = [_claim(row, figure) for figure in anchor.figures if figure.task in (source.task.name, source.label)]
        for claim in (*published_claims(recipe, row, source.task.name), *figures):
            yield _compared(anchor, source, score, claim)
    yield from _average(recipe, row, anchor, scores)


def _claim(row: str, figure: Figure) -> Claim:
    return Claim(
        table="recipe", row=row, task=figure.task, value=figure.value, metric=figure.metric or NOT_STATED, shots=figure.shots, n=figure.n,
        protocol=figure.protocol, model="", source="recipe", where=figure.where, grade="", note="",
    )  # fmt: skip


def _compared(anchor: Anchor, source: Source, score: Score | None, claim: Claim) -> Comparison:
    value = score.value if score else None
    return Comparison(
        row=claim.row,
        task=source.label,
        ours=value,
        stderr=score.stderr if score else None,
        n=score.n if score else None,
        published=claim.value,
        source=_source(claim),
        difference=None if value is None else value - claim.value,
        outcome=_outcome(anchor, source, score, claim),
    )


def _outcome(anchor: Anchor, source: Source, score: Score | None, claim: Claim) -> str:
    reasons = rules_against(source.benchmark, source.task, score, claim)
    differing = f"; {'; '.join(reasons)}" if reasons else ""
    if score is None:
        return f"{'not run' if anchor.model else 'weights not pinned'}{differing}"
    if score.value is None:
        return f"unscored{differing}"
    if score.limit is None and not score.n_unscored:
        return f"{_all_questions(score, claim)}{differing or '; same rules'}"
    interval = t_of(score.values, source.cluster)
    if interval is None:
        return f"too few questions for an interval{differing}"
    inside = interval[0] <= claim.value <= interval[1]
    place = f"{'inside' if inside else 'outside'} our 95 % interval {interval[0]:.2f} to {interval[1]:.2f}"
    return f"{place}{differing}"


def _all_questions(score: Score, claim: Claim) -> str:
    """On the full set of questions chance has no part: what differs is counted in answers."""
    assert score.value is not None
    if abs(score.value - claim.value) <= ROUNDING:
        return "equal as printed"
    if score.benchmark == "mt_bench":
        return "differs"
    return f"differs by {abs(score.value - claim.value) * score.n / 100:.0f} of {score.n} answers"


def _average(recipe: Recipe, row: str, anchor: Anchor, scores: Scores) -> Iterator[Comparison]:
    tasks = leaderboard(recipe)
    found = [scores[row, source.label] for source in tasks if (row, source.label) in scores]
    mean = mean_of_tasks([Estimate(s.value, s.stderr, s.n - s.n_unscored, s.n_unscored) for s in found])
    ours = mean.value if tasks and len(found) == len(tasks) else None
    for claim in published_claims(recipe, row, AVERAGE) if tasks else ():
        yield Comparison(
            row=row,
            task=AVERAGE,
            ours=ours,
            stderr=mean.stderr if ours is not None else None,
            n=mean.n + mean.n_unscored if ours is not None else None,
            published=claim.value,
            source=_source(claim),
            difference=None if ours is None else ours - claim.value,
            outcome="mean of the tasks above" if ours is not None else "not run" if anchor.model else "weights not pinned",
        )


def _source(claim: Claim) -> str:
    return f"{claim.table} ({claim.protocol})" if claim.table != "recipe" else f"{claim.where} ({claim.protocol})"
