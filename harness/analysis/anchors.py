"""Checkpoints somebody else published, evaluated here and set beside their published figures.

The weights are the same, so a difference is never one of training: it is the evaluation's (rules, engine, precision) or, where only
some of the questions were asked, chance. An anchors recipe runs through the same plan, runner and tables as any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.analysis.comparability import AVERAGE, published_claims, rules_against, training_against
from harness.analysis.published import Claim
from harness.analysis.scores import RunScores, TaskColumn, estimate_of, load_scores
from harness.contracts import Score
from harness.errors import RecipeError
from harness.evaluation.units import unit_of
from harness.paper import NOT_STATED
from harness.recipe import Anchor, Figure, Recipe

ROUNDING = 0.005
"""Published scores have two decimals; MT-Bench's too."""


class AnchorFigure(NamedTuple):
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


def require_anchors(recipe: Recipe) -> None:
    """Raise `RecipeError` for a recipe that names no anchors."""
    if not recipe.anchors:
        raise RecipeError(
            f"recipe {recipe.name} names no anchors; expected one such as zephyr-7b-anchors, "
            "or a file that says replace(base, name=..., iterations=(), anchors={...})"
        )


def compare_figures(recipe: Recipe, run: Path) -> list[AnchorFigure]:
    """Every published figure of every anchor beside our score of it, read from the run's records."""
    scores = load_scores(run, recipe)
    return [figure for row, anchor in recipe.anchors.items() for figure in _figures(scores, row, anchor)]


def figure_rows(figures: Sequence[AnchorFigure]) -> list[dict[str, Any]]:
    """The figures as a printed table."""
    return [
        {
            "anchor": figure.row,
            "task": figure.task,
            "ours": None if figure.ours is None else f"{figure.ours:.2f}" + ("" if figure.stderr is None else f" ± {figure.stderr:.2f}"),
            "n": figure.n,
            "published": f"{figure.published:.2f}",
            "source": figure.source,
            "difference": None if figure.difference is None else f"{figure.difference:+.2f}",
            "outcome": figure.outcome,
        }
        for figure in figures
    ]


def conclusions_of(figures: Sequence[AnchorFigure]) -> list[str]:
    """One line for each source: how far our evaluation is from it, on average over the figures that have both numbers."""
    lines = []
    for source in dict.fromkeys(figure.source for figure in figures):
        own = [figure for figure in figures if figure.source == source and figure.task != AVERAGE]
        differences = [figure.difference for figure in own if figure.difference is not None]
        if differences:
            mean, largest = sum(differences) / len(differences), max(differences, key=abs)
            lines.append(f"{source}: ours - theirs is {mean:+.2f} on average over {len(differences)} figures, at most {largest:+.2f}")
        else:
            lines.append(f"{source}: nothing to compare yet")
    return lines


def anchor_notes(recipe: Recipe) -> list[str]:
    """What the recipe says about the anchors' weights, and which are not run because they cannot be pinned."""
    return [f"{row}{'' if anchor.model else ' is not run'}: {anchor.note}" for row, anchor in recipe.anchors.items() if anchor.note]


def _figures(scores: RunScores, row: str, anchor: Anchor) -> Iterator[AnchorFigure]:
    for column in scores.tasks:
        stated = [_claim(row, figure) for figure in anchor.figures if figure.task in (column.task.name, column.label)]
        for claim in (*published_claims(scores.recipe, row, column.task.name), *stated):
            yield _task_figure(scores, anchor, column, claim)
    yield from _average_figures(scores, row, anchor)


def _claim(row: str, figure: Figure) -> Claim:
    return Claim(
        table="recipe", row=row, task=figure.task, value=figure.value, metric=figure.metric or NOT_STATED, shots=figure.shots, n=figure.n,
        protocol=figure.protocol, model="", source="recipe", where=figure.where, grade="", note="",
    )  # fmt: skip


def _task_figure(scores: RunScores, anchor: Anchor, column: TaskColumn, claim: Claim) -> AnchorFigure:
    score = scores.score(claim.row, column)
    value = score.value if score else None
    return AnchorFigure(
        row=claim.row,
        task=column.label,
        ours=value,
        stderr=estimate_of(score, column).stderr if score else None,
        n=score.n if score else None,
        published=claim.value,
        source=_source(claim),
        difference=None if value is None else value - claim.value,
        outcome=_outcome(scores.recipe, anchor, column, score, claim),
    )


def _outcome(recipe: Recipe, anchor: Anchor, column: TaskColumn, score: Score | None, claim: Claim) -> str:
    weights = training_against(recipe, claim.row, claim) if claim.model else ()  # a figure of the recipe's own is of these very weights
    reasons = (*weights, *rules_against(column.benchmark, column.task, score, claim))
    differing = f"; {'; '.join(reasons)}" if reasons else ""
    if score is None:
        return f"{'not run' if anchor.model else 'weights not pinned'}{differing}"
    if score.value is None:
        return f"unscored{differing}"
    if score.limit is None and not score.n_unscored:
        return f"{_all_questions(score, column, claim)}{differing or '; same rules'}"
    found = estimate_of(score, column)
    if found.low is None or found.high is None:
        return f"too little spread for an interval{differing}"
    inside = found.low <= claim.value <= found.high
    position = f"{'inside' if inside else 'outside'} our 95 % interval {found.low:.2f} to {found.high:.2f}"
    return f"{position}{differing}"


def _all_questions(score: Score, column: TaskColumn, claim: Claim) -> str:
    """On the full set of questions chance has no part: what differs is counted in answers."""
    assert score.value is not None
    if abs(score.value - claim.value) <= ROUNDING:
        return "equal as printed"
    if unit_of(column.benchmark, column.task, score) != "percent":
        return "differs"
    return f"differs by {abs(score.value - claim.value) * score.n / 100:.0f} of {score.n} answers"


def _average_figures(scores: RunScores, row: str, anchor: Anchor) -> Iterator[AnchorFigure]:
    tasks = scores.leaderboard
    mean = scores.average(row)
    outcome = "mean of the tasks above" if mean else "not run" if anchor.model else "weights not pinned"
    for claim in published_claims(scores.recipe, row, AVERAGE) if tasks else ():
        yield AnchorFigure(
            row=row,
            task=AVERAGE,
            ours=mean.value if mean else None,
            stderr=mean.stderr if mean else None,
            n=mean.n + mean.n_unscored if mean else None,
            published=claim.value,
            source=_source(claim),
            difference=None if mean is None or mean.value is None else mean.value - claim.value,
            outcome="; ".join([outcome, *training_against(scores.recipe, row, claim)]),
        )


def _source(claim: Claim) -> str:
    return f"{claim.table} ({claim.protocol})" if claim.table != "recipe" else f"{claim.where} ({claim.protocol})"
