"""Several runs of one recipe that differ in their seeds -> mean and spread, and what the last iteration gained in each and in all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.analysis.claims import Measured, judge
from harness.analysis.comparability import AVERAGE, formula_notes
from harness.analysis.differences import average_difference, delta, delta_text, difference, goal, word
from harness.analysis.run_table import collect
from harness.analysis.scores import Scores, Source, leaderboard, other_rules, read_scores, sources
from harness.analysis.table_schema import Column, Finding, SeedComparison, SeedTable, Spread
from harness.artifact import read_recipe
from harness.config import flatten
from harness.errors import InputError
from harness.evaluation.statistics import Paired, mean_of_differences, paired_difference, spread, t_interval
from harness.plan import contests
from harness.recipe import Recipe

MEAN = "mean over tasks"
FREE = ("name", "summary", "because", "seed", "shuffle_seed", "claims")
"""Parts of a field's path that may differ between the runs."""


class Run(NamedTuple):
    """What the tables need of a run: {(row, column label): score}, and the same cells as values, averages included."""

    recipe: Recipe
    scores: Scores
    values: dict[tuple[str, str], float | None]


class Layout(NamedTuple):
    """What a table over runs shows: rows, columns, (row, against) for each comparison, and (row, the same on less data)."""

    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    contests: tuple[tuple[str, str], ...]
    sizes: tuple[tuple[str, str], ...] = ()


def combine(runs: Sequence[Path]) -> SeedTable:
    """The runs' rows and tasks as mean and standard deviation over runs, and the last iteration against every baseline.

    Raises InputError where two recipes differ in more than their seeds, or no run is given.
    """
    if not runs:
        raise InputError("no run to combine; give the directories of runs that differ in their seeds")
    table, loaded = collect(runs[0]), [read_run(run) for run in runs]
    recipe = loaded[0].recipe
    check_same(loaded)
    layout = Layout(table.rows, table.columns, contests(recipe))
    runs_by_name = {run.recipe.name: run for run in loaded}
    return seed_table(" + ".join(runs_by_name), recipe.summary, runs_by_name, layout, formula_notes(recipe))


def read_run(path: Path) -> Run:
    """The run at `path`, from its records."""
    recipe, table = read_recipe(path), collect(path)
    return Run(recipe, read_scores(path, recipe), {(cell.row, cell.column): cell.value for cell in table.cells})


def seed_table(name: str, summary: str, runs: Mapping[str, Run], layout: Layout, notes: Sequence[str] = ()) -> SeedTable:
    """The table of `runs` ({name: run}), which must have the same rows and columns."""
    found = list(runs.values())
    comparisons = tuple(_comparisons(found, layout))
    return SeedTable(
        name=name,
        summary=summary,
        runs=tuple(runs),
        rows=layout.rows,
        columns=layout.columns,
        spreads=tuple(
            _spread(row, column.label, [run.values.get((row, column.label)) for run in found], _rules_note(found, row, column.label))
            for row in layout.rows
            for column in layout.columns
        ),
        comparisons=comparisons,
        findings=tuple(_findings(found, layout, comparisons)),
        notes=tuple(notes),
    )


def check_same(runs: Sequence[Run]) -> None:
    """Raise InputError where the runs' recipes differ in more than their seeds."""
    for other in runs[1:]:
        _check_pair(runs[0].recipe, other.recipe)


def _check_pair(first: Recipe, other: Recipe) -> None:
    ours, theirs = flatten(first), flatten(other)
    fields = [
        field
        for field in sorted({*ours, *theirs})
        if ours.get(field) != theirs.get(field) and not any(part in FREE for part in field.split("."))
    ]
    if fields:
        raise InputError(
            f"{other.name} and {first.name} differ in {', '.join(fields)}; only runs that differ in their seeds can be averaged"
        )


def _rules_note(runs: Sequence[Run], row: str, column: str) -> str | None:
    """In which rules the runs' scores differ (of an average: those of its tasks), or None."""
    recipe = runs[0].recipe
    tasks = [source.label for source in leaderboard(recipe)] if column == AVERAGE else [column]
    fields = {
        f"{label}: {field}"
        for label in tasks
        for run in runs[1:]
        if (row, label) in run.scores and (row, label) in runs[0].scores
        for field in other_rules(run.scores[row, label], runs[0].scores[row, label])
    }
    return "; ".join(sorted(fields)).replace("the rows above", recipe.name) or None


def _spread(row: str, column: str, values: Sequence[float | None], note: str | None) -> Spread:
    known = [value for value in values if value is not None]
    if note or len(known) < len(values):
        return Spread(row=row, column=column, mean=None, sd=None, n=len(known), note=note)
    mean, sd = spread(known)
    return Spread(row=row, column=column, mean=mean, sd=sd, n=len(known))


def _comparisons(runs: Sequence[Run], layout: Layout) -> Iterator[SeedComparison]:
    tasks = _tasks(runs, layout)
    accuracy = [source for column, source in tasks if column.is_accuracy]
    for row, against in layout.contests:
        if accuracy:
            yield _mean_comparison(runs, row, against, accuracy)
        for column, source in tasks:
            yield _task_comparison(runs, row, against, source, column)


def _tasks(runs: Sequence[Run], layout: Layout) -> list[tuple[Column, Source]]:
    """The columns that are tasks, and where their scores come from."""
    by_label = {source.label: source for source in sources(runs[0].recipe)}
    return [(column, by_label[column.label]) for column in layout.columns if column.label in by_label]


def _findings(runs: Sequence[Run], layout: Layout, made: Sequence[SeedComparison]) -> Iterator[Finding]:
    """The paper's claims by the interval over seeds; by that of the questions where there is one run. `made` is not computed again."""
    tasks = _tasks(runs, layout)
    by_label = {column.label: source for column, source in tasks}
    accuracy = [source for column, source in tasks if column.is_accuracy]
    known = {(one.row, one.against, one.column): one for one in made}

    def measure(row: str, against: str, column: Column | None) -> Measured:
        if column is None:
            one = known.get((row, against, MEAN)) or _mean_comparison(runs, row, against, accuracy)
            what = f"mean of {len(accuracy)} tasks"
        else:
            what = column.label
            one = known.get((row, against, what)) or _task_comparison(runs, row, against, by_label[what], column)
        decides = one.over_seeds if len(runs) > 1 else one.pooled
        pooled = "" if len(runs) == 1 else f", pooled over questions {delta_text(one.pooled, column)}"
        over = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
        return Measured(decides, (), f"{row} - {against}: {delta_text(decides, column)}{pooled} ({what}, {over})")

    return judge(runs[0].recipe, layout.columns, measure, layout.sizes)


def _task_comparison(runs: Sequence[Run], row: str, against: str, source: Source, column: Column) -> SeedComparison:
    pooled = _pooled(runs, row, against, source)
    found = delta(against, pooled)
    verdict = word(found, lower_is_better=column.lower_is_better) if found else "undecided: not every run has it"
    per_run = [difference(row, against, source, run.scores).paired for run in runs]
    return _comparison((row, against, column.label), per_run, pooled, verdict, is_mixed=_is_mixed(runs, row, against, [source]))


def _mean_comparison(runs: Sequence[Run], row: str, against: str, tasks: Sequence[Source]) -> SeedComparison:
    parts = {source.label: _pooled(runs, row, against, source) for source in tasks}
    known = [part for part in parts.values() if part is not None]
    missing = [label for label, part in parts.items() if part is None]
    pooled = None if missing else mean_of_differences(known)
    per_run = [average_difference(row, against, tasks, run.scores) for run in runs]
    verdict = goal(delta(against, pooled), missing)
    return _comparison((row, against, MEAN), per_run, pooled, verdict, is_mixed=_is_mixed(runs, row, against, tasks))


def _is_mixed(runs: Sequence[Run], row: str, against: str, tasks: Sequence[Source]) -> bool:
    """Whether the runs were scored under different rules on one of `tasks`."""
    return any(_rules_note(runs, name, source.label) for name in (row, against) for source in tasks)


def _comparison(
    place: tuple[str, str, str], per_run: Sequence[Paired | None], pooled: Paired | None, verdict: str, *, is_mixed: bool
) -> SeedComparison:
    row, against, column = place
    known = [one.difference for one in per_run if one is not None and one.difference is not None]
    over_seeds = t_interval(known, "t over runs") if known and len(known) == len(per_run) and not is_mixed else None
    return SeedComparison(
        row=row,
        against=against,
        column=column,
        per_run=tuple(delta(against, one) for one in per_run),
        pooled=delta(against, pooled),
        over_seeds=delta(against, over_seeds),
        verdict=verdict,
    )


def _pooled(runs: Sequence[Run], row: str, against: str, source: Source) -> Paired | None:
    """The paired difference of each question's mean over the runs; None unless every run has both scores under one set of rules."""
    if _is_mixed(runs, row, against, [source]) or any(difference(row, against, source, run.scores).paired is None for run in runs):
        return None
    ours, theirs = (_mean_values([run.scores[name, source.label].values for run in runs]) for name in (row, against))
    paired = paired_difference(ours, theirs, source.cluster)
    return paired if paired.difference is not None else None


def _mean_values(runs: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """{question: mean over the runs} of the questions scored in every run."""
    means: dict[str, float | None] = {}
    for key in runs[0]:
        found = [value for run in runs if (value := run.get(key)) is not None]
        if len(found) == len(runs):
            means[key] = math.fsum(found) / len(runs)
    return means
