"""A run's records -> ResultTable: every row and task with its error, its paired difference, and the published number beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from harness.analysis.claims import findings
from harness.analysis.comparability import AVERAGE, claim_for, formula_notes, reasons_against, shown_tables
from harness.analysis.differences import (
    REFERENCE,
    average_difference,
    compare,
    comparisons,
    delta,
    difference,
    from_published,
    gains,
    with_holm,
)
from harness.analysis.published import Claim, claims
from harness.analysis.published_gains import summary
from harness.analysis.scores import Scores, Source, first_score, leaderboard, other_rules, read_scores, sources
from harness.analysis.table_schema import Cell, Column, Part, Published, PublishedTable, ResultTable, Unit
from harness.artifact import RunDir, read_recipe
from harness.contracts import Score
from harness.evaluation.statistics import Estimate, mean_of_tasks
from harness.plan import plan, rows
from harness.recipe import Recipe

LOWER_IS_BETTER = ("kl", "invalid")
"""How the names of metrics or tasks begin where less is better."""


def collect(run: Path) -> ResultTable:
    """The table of the run at `run`, from its records. Raises InputError where they are missing or damaged."""
    recipe = read_recipe(run)
    scores = read_scores(run, recipe)
    columns = tuple(columns_of(recipe, scores))
    return ResultTable(
        recipe=recipe.name,
        summary=recipe.summary,
        rows=rows(recipe),
        columns=columns,
        cells=tuple(with_holm([cell for row in rows(recipe) for cell in _row(recipe, row, scores)])),
        comparisons=tuple(comparisons(recipe, columns, scores)),
        from_sft=tuple(compare(recipe, columns, scores, row, REFERENCE) for row in rows(recipe) if row != REFERENCE),
        gains=tuple(gains(recipe, columns, scores)),
        findings=tuple(findings(recipe, columns, scores)),
        parts=tuple(_parts(recipe, scores)),
        published=tuple(_published_tables(recipe, scores)),
        notes=(*formula_notes(recipe), *_identity_notes(RunDir(run), recipe)),
    )


def columns_of(recipe: Recipe, scores: Scores) -> Iterator[Column]:
    """The recipe's tasks in its order, then the average over the six leaderboard tasks where the recipe has them all."""
    for source in sources(recipe):
        score = first_score(recipe, source, scores)
        metric = score.metric if score else source.task.metric
        yield Column(
            label=source.label,
            benchmark=source.benchmark.title,
            task=source.task.name,
            metric=metric,
            unit=_unit(source, metric),
            lower_is_better=lower_is_better(metric, source.task.name),
            protocol=source.benchmark.protocol,
            shots=score.shots if score else source.task.shots,
            limit=score.limit if score else source.task.limit,
            n=score.n if score else None,
        )
    if leaderboard(recipe):
        yield Column(
            label=AVERAGE, benchmark=None, task=AVERAGE, metric="mean of the six leaderboard tasks", unit="percent",
            lower_is_better=False, protocol=None, shots=None, limit=None, n=None,
        )  # fmt: skip


def lower_is_better(metric: str, task: str) -> bool:
    """Whether less is better, by the name of the metric or of the task."""
    return metric.startswith(LOWER_IS_BETTER) or task.startswith(LOWER_IS_BETTER)


def _unit(source: Source, metric: str) -> Unit:
    if source.benchmark.name == "mt_bench":
        return "points"
    return "nats" if metric.startswith(("kl", "nats")) else "percent"


def _row(recipe: Recipe, row: str, scores: Scores) -> Iterator[Cell]:
    for source in sources(recipe):
        yield _cell(recipe, row, source, scores)
    if leaderboard(recipe):
        yield _average(recipe, row, scores)


def _cell(recipe: Recipe, row: str, source: Source, scores: Scores) -> Cell:
    score = scores.get((row, source.label))
    claim = claim_for(recipe, row, source.task.name, source.benchmark.protocol)
    reasons = reasons_against(recipe, source.benchmark, source.task, score, claim) if claim else ()
    published = _published(claim, reasons)
    first = first_score(recipe, source, scores)
    if score is None or first is None:
        return Cell(row=row, column=source.label, status="not run", **published)
    found = None if row == REFERENCE else difference(row, REFERENCE, source, scores)
    return Cell(
        row=row,
        column=source.label,
        status="unscored" if score.value is None else "scored",
        value=score.value,
        stderr=score.stderr,
        n=score.n,
        n_unscored=score.n_unscored,
        delta=delta(REFERENCE, found.paired) if found else None,
        from_published=from_published(score, claim) if claim and not reasons else None,
        notes=(*other_rules(score, first), *([found.note] if found and found.note else [])),
        **published,
    )


def _parts(recipe: Recipe, scores: Scores) -> Iterator[Part]:
    """MT-Bench by turn and by category, from the details of its scores."""
    kinds: tuple[tuple[Literal["turn", "category"], str], ...] = (("turn", "turns"), ("category", "categories"))
    for source in sources(recipe):
        for row in rows(recipe) if source.benchmark.name == "mt_bench" else ():
            score = scores.get((row, source.label))
            for kind, key in kinds if score else ():
                for name, found in score.details.get(key, {}).items() if score else ():
                    yield Part(row=row, column=source.label, kind=kind, name=name, value=found["mean"], n=found["n"])


def _average(recipe: Recipe, row: str, scores: Scores) -> Cell:
    """The mean of the six tasks; while one is missing or made under other rules it is 'incomplete' and has no value."""
    tasks = leaderboard(recipe)
    found = {source.label: scores[row, source.label] for source in tasks if (row, source.label) in scores}
    claim = claim_for(recipe, row, AVERAGE, tasks[0].benchmark.protocol)
    published = _published(claim, _average_reasons(_barred(recipe, row, scores)) if claim else ())
    scored = {label: score for label, score in found.items() if score.value is not None}
    if not found:
        return Cell(row=row, column=AVERAGE, status="not run", **published)
    if len(scored) < len(tasks):
        return Cell(row=row, column=AVERAGE, status="incomplete", notes=(f"{len(scored)} of {len(tasks)} tasks",), **published)
    if mixed := [source.label for source in tasks if _is_other(recipe, source, scored[source.label], scores)]:
        return Cell(row=row, column=AVERAGE, status="incomplete", notes=(f"other rules: {', '.join(mixed)}",), **published)
    mean = mean_of_tasks([Estimate(s.value, s.stderr, s.n - s.n_unscored, s.n_unscored) for s in scored.values()])
    return Cell(
        row=row,
        column=AVERAGE,
        status="scored",
        value=mean.value,
        stderr=mean.stderr,
        n=mean.n + mean.n_unscored,
        n_unscored=mean.n_unscored,
        delta=None if row == REFERENCE else delta(REFERENCE, average_difference(row, REFERENCE, tasks, scores)),
        **published,
    )


def _is_other(recipe: Recipe, source: Source, score: Score, scores: Scores) -> bool:
    first = first_score(recipe, source, scores)
    return first is not None and bool(other_rules(score, first))


def _average_reasons(barred: Sequence[str]) -> tuple[str, ...]:
    return (f"tasks that are not comparable: {', '.join(barred)}",) if barred else ()


def _barred(recipe: Recipe, row: str, scores: Scores) -> list[str]:
    """The leaderboard tasks of `row` that may not be compared with what is published for it."""
    found = []
    for source in leaderboard(recipe):
        claim = claim_for(recipe, row, source.task.name, source.benchmark.protocol)
        if claim is None or reasons_against(recipe, source.benchmark, source.task, scores.get((row, source.label)), claim):
            found.append(source.label)
    return found


def _published(claim: Claim | None, reasons: tuple[str, ...]) -> dict[str, Any]:
    if claim is None:
        return {}
    number = Published(value=claim.value, table=claim.table, protocol=claim.protocol, where=claim.where)
    return {"published": number, "comparable": not reasons, "reasons": reasons}


def _published_tables(recipe: Recipe, scores: Scores) -> Iterator[PublishedTable]:
    by_task = {source.task.name: source for source in sources(recipe)}
    for name in shown_tables(recipe):
        cells = [claim for claim in claims(name) if claim.task in by_task or (claim.task == AVERAGE and leaderboard(recipe))]
        if not cells:
            continue
        printed: dict[str, dict[str, float]] = {}
        for claim in cells:
            printed.setdefault(claim.row, {})[claim.task] = claim.value
        reasons = {
            claim.task: reasons_against(recipe, source.benchmark, source.task, first_score(recipe, source, scores), claim)
            for claim in cells
            if (source := by_task.get(claim.task))
        }
        if AVERAGE in {claim.task for claim in cells}:
            reasons[AVERAGE] = _average_reasons([task for task, found in reasons.items() if found])
        yield PublishedTable(
            table=name,
            protocol=cells[0].protocol,
            where=cells[0].where,
            rows=printed,
            reasons=reasons,
            notes={claim.row: claim.note for claim in cells if claim.note},
            gains=summary(name, {claim.task for claim in cells}),
        )


def _identity_notes(run: RunDir, recipe: Recipe) -> Iterator[str]:
    """Numbers of another making: stages whose identity is not the recipe's, and stages a person kept although it changed."""
    stages = plan(recipe)
    stale = [stage.path for stage in stages if run.state(stage) == "stale"]
    if stale:
        yield f"made under another identity than {recipe.name} has now, see `harness status`: {', '.join(stale)}"
    for stage in stages:
        launch = run.launch(stage.path)
        for accepted in launch.accepted if launch else ():
            changes = ", ".join(f"{field} {old!r} where the recipe says {new!r}" for field, old, new in accepted.difference)
            yield f"{stage.path} was kept with {changes}, because {accepted.because}"
