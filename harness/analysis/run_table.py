"""A run's records -> ResultTable: every row and task with its error, its paired difference, and the published number beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from harness.analysis.claims import check_claims
from harness.analysis.comparability import (
    AVERAGE,
    SAME_TASK,
    Reasons,
    claim_for,
    evaluation_against,
    formula_notes,
    reasons_against,
    shown_tables,
    training_against,
)
from harness.analysis.differences import REFERENCE, compare_rows, comparisons, delta, from_published, iteration_steps, rounded
from harness.analysis.published import Claim, claims
from harness.analysis.published_gains import summary
from harness.analysis.scores import RunScores, TaskColumn, estimate_of, load_scores
from harness.analysis.table_schema import Cell, Part, Published, PublishedTable, ResultTable
from harness.artifact import RunDir
from harness.plan import plan
from harness.recipe import Recipe
from harness.runs.committed_records import planned_stages, unfinished

NOT_OURS = "the recipe has no such task"


def collect(run: Path, scores: RunScores | None = None) -> ResultTable:
    """The table of the run at `run`, from its records or from its `scores` where they are loaded.

    Raises InputError where records are missing or damaged.
    """
    scores = scores or load_scores(run)
    recipe = scores.recipe
    return ResultTable(
        recipe=recipe.name,
        summary=recipe.summary,
        rows=scores.rows,
        columns=scores.columns,
        cells=tuple(cell for row in scores.rows for cell in _row(scores, row)),
        comparisons=tuple(comparisons(scores)),
        from_sft=tuple(compare_rows(scores, row, REFERENCE) for row in scores.rows if row != REFERENCE),
        gains=tuple(iteration_steps(scores)),
        findings=tuple(check_claims(scores)),
        parts=tuple(_parts(scores)),
        published=tuple(_published_tables(scores)),
        notes=(*unfinished_notes(RunDir(run)), *formula_notes(recipe), *_identity_notes(RunDir(run), recipe)),
    )


def _row(scores: RunScores, row: str) -> Iterator[Cell]:
    for column in scores.tasks:
        yield _cell(scores, row, column)
    if scores.leaderboard:
        yield _average(scores, row)


def _cell(scores: RunScores, row: str, column: TaskColumn) -> Cell:
    score = scores.score(row, column)
    claim = claim_for(scores.recipe, row, column.task.name, column.benchmark.protocol)
    reasons = reasons_against(scores.recipe, row, column.benchmark, column.task, score, claim) if claim else NO_REASONS
    published = _published(claim, reasons)
    if score is None:
        return Cell(row=row, column=column.label, status="not run", **published)
    difference = None if row == REFERENCE else scores.difference(row, REFERENCE, column)
    found = estimate_of(score, column)
    return Cell(
        row=row,
        column=column.label,
        status="unscored" if score.value is None else "scored",
        value=score.value,
        stderr=found.stderr,
        low=rounded(found.low),
        high=rounded(found.high),
        n=score.n,
        n_unscored=score.n_unscored,
        delta=delta(REFERENCE, difference.paired) if difference else None,
        from_published=from_published(score, claim) if claim and not reasons.evaluation else None,
        notes=(*scores.other_rules(row, column), *([difference.note] if difference and difference.note else [])),
        **published,
    )


def _parts(scores: RunScores) -> Iterator[Part]:
    """MT-Bench by turn and by category, from the details of its scores."""
    kinds: tuple[tuple[Literal["turn", "category"], str], ...] = (("turn", "turns"), ("category", "categories"))
    for column in scores.tasks:
        for row in scores.rows if column.benchmark.name == "mt_bench" else ():
            score = scores.score(row, column)
            for kind, key in kinds if score else ():
                for name, part in score.details.get(key, {}).items() if score else ():
                    yield Part(row=row, column=column.label, kind=kind, name=name, value=part["mean"], n=part["n"])


def _average(scores: RunScores, row: str) -> Cell:
    """The mean of the six tasks; while one is missing or made under other rules it is 'incomplete' and has no value."""
    published = _published(*average_against(scores, row))
    mean = scores.average(row)
    if mean is None:
        why = _why_no_average(scores, row)
        return Cell(row=row, column=AVERAGE, status="incomplete" if why else "not run", notes=why, **published)
    return Cell(
        row=row,
        column=AVERAGE,
        status="scored",
        value=mean.value,
        stderr=mean.stderr,
        low=rounded(mean.low),
        high=rounded(mean.high),
        n=mean.n + mean.n_unscored,
        n_unscored=mean.n_unscored,
        delta=None if row == REFERENCE else delta(REFERENCE, scores.average_difference(row, REFERENCE, scores.leaderboard)),
        **published,
    )


def average_against(scores: RunScores, row: str) -> tuple[Claim | None, Reasons]:
    """What is published as the average of `row`, and why ours may not be compared with it; of other tasks, what the training says."""
    claim = claim_for(scores.recipe, row, AVERAGE, scores.leaderboard[0].benchmark.protocol if scores.leaderboard else None)
    if claim is None:
        return None, NO_REASONS
    return claim, Reasons(_average_reasons(_barred(scores, row)), training_against(scores.recipe, row, claim))


def _why_no_average(scores: RunScores, row: str) -> tuple[str, ...]:
    """How many tasks there are, or which were made under other rules; nothing where no task was run."""
    present = [score for column in scores.leaderboard if (score := scores.score(row, column)) is not None]
    num_scored = sum(score.value is not None for score in present)
    if not present:
        return ()
    if num_scored < len(scores.leaderboard):
        return (f"{num_scored} of {len(scores.leaderboard)} tasks",)
    return (f"other rules: {', '.join(column.label for column in scores.leaderboard if scores.other_rules(row, column))}",)


def _average_reasons(barred: Sequence[str]) -> tuple[str, ...]:
    return (f"tasks that are not comparable: {', '.join(barred)}",) if barred else ()


def _barred(scores: RunScores, row: str) -> list[str]:
    """The leaderboard tasks of `row` that were not evaluated as what is published for it."""
    barred = []
    for column in scores.leaderboard:
        claim = claim_for(scores.recipe, row, column.task.name, column.benchmark.protocol)
        if claim is None or evaluation_against(scores.recipe, column.benchmark, column.task, scores.score(row, column), claim):
            barred.append(column.label)
    return barred


NO_REASONS = Reasons((), ())


def _published(claim: Claim | None, reasons: Reasons) -> dict[str, Any]:
    if claim is None:
        return {}
    number = Published(value=claim.value, table=claim.table, protocol=claim.protocol, where=claim.where)
    return {
        "published": number,
        "comparable": reasons == NO_REASONS,
        "same_evaluation": not reasons.evaluation,
        "reasons": (*reasons.evaluation, *reasons.training),
        "training_reasons": reasons.training,
    }


def _published_tables(scores: RunScores) -> Iterator[PublishedTable]:
    by_task = {SAME_TASK.get(column.task.name, column.task.name): column for column in scores.tasks}
    for name in shown_tables(scores.recipe):
        cells = claims(name)
        printed: dict[str, dict[str, float]] = {}
        for claim in cells:
            printed.setdefault(claim.row, {})[claim.task] = claim.value
        reasons = {
            claim.task: evaluation_against(scores.recipe, column.benchmark, column.task, scores.first(column), claim)
            if (column := by_task.get(claim.task))
            else (NOT_OURS,)
            for claim in cells
        }
        if AVERAGE in reasons and scores.leaderboard:
            reasons[AVERAGE] = _average_reasons([task for task, why in reasons.items() if why])
        yield PublishedTable(
            table=name,
            protocol=cells[0].protocol,
            where=cells[0].where,
            rows=printed,
            reasons=reasons,
            notes={claim.row: claim.note for claim in cells if claim.note},
            gains=summary(name, {task for task, why in reasons.items() if why != (NOT_OURS,)}),
        )


def unfinished_notes(run: RunDir) -> Iterator[str]:
    """How many of a run's stages, and which, are not finished; nothing where all are."""
    planned = planned_stages(run)
    left = unfinished(run, planned)
    if left:
        yield f"this run is unfinished, {len(left)} of its {len(planned)} stages have no results: {', '.join(left)}"


def _identity_notes(run: RunDir, recipe: Recipe) -> Iterator[str]:
    """Numbers of another making: stages whose identity is not the recipe's, and stages a person kept although it changed."""
    stages = plan(recipe)
    stale = [stage.path for stage in stages if run.state(stage) == "stale"]
    if stale:
        yield f"made under another identity than {recipe.name} has now, see `harness status`: {', '.join(stale)}"
    for stage in stages:
        launch = run.launch(stage.path)
        for accepted in launch.accepted if launch else ():
            if accepted.follows:
                continue  # that stage's own line says it
            own = [change for change in accepted.difference if not change[0].startswith("inputs.")] or accepted.difference
            changes = ", ".join(f"{field} {old!r} where the recipe says {new!r}" for field, old, new in own)
            yield f"{stage.path} was kept with {changes}, because {accepted.because}"
