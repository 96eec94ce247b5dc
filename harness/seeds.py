"""Several runs of one recipe that differ in their seeds -> mean and spread, and what the last iteration gained in each and in all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.cells import collect
from harness.comparability import AVERAGE
from harness.deviation import flatten
from harness.differences import REFERENCE, average_difference, delta, difference, goal, word
from harness.errors import InputError
from harness.plan import rows
from harness.recipe import Recipe
from harness.results import Column, SeedComparison, SeedTable, Spread
from harness.scores import Scores, Source, leaderboard, other_rules, read_recipe, read_scores, sources
from harness.statistics import Paired, mean_of_differences, paired_difference, spread, t_interval

MEAN = "mean over tasks"
FREE = ("name", "summary", "because", "seed", "shuffle_seed", "claims")
"""Parts of a field's path that may differ between the runs."""


class _Run(NamedTuple):
    recipe: Recipe
    scores: Scores


def combine(runs: Sequence[Path]) -> SeedTable:
    """The runs' rows and tasks as mean and standard deviation over runs, and the last iteration against `sft` and the controls.

    Raises InputError where two recipes differ in more than their seeds, or no run is given.
    """
    if not runs:
        raise InputError("no run to combine; give the directories of runs that differ in their seeds")
    loaded = [_Run(recipe, read_scores(run, recipe)) for run in runs for recipe in (read_recipe(run),)]
    first = loaded[0].recipe
    for other in loaded[1:]:
        _check_same(first, other.recipe)
    tables = [collect(run) for run in runs]
    return SeedTable(
        summary=first.summary,
        runs=tuple(one.recipe.name for one in loaded),
        rows=tables[0].rows,
        columns=tables[0].columns,
        spreads=tuple(
            _spread(row, column.label, [table.cell(row, column.label).value for table in tables], _rules_note(loaded, row, column.label))
            for row in tables[0].rows
            for column in tables[0].columns
        ),
        comparisons=tuple(_comparisons(loaded, tables[0].columns)),
    )


def _check_same(first: Recipe, other: Recipe) -> None:
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


def _rules_note(runs: Sequence[_Run], row: str, column: str) -> str | None:
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


def _comparisons(runs: Sequence[_Run], columns: Sequence[Column]) -> Iterator[SeedComparison]:
    recipe = runs[0].recipe
    last = rows(recipe)[-1]
    by_label = {source.label: source for source in sources(recipe)}
    accuracy = [by_label[c.label] for c in columns if c.unit == "percent" and not c.lower_is_better and c.label in by_label]
    for against in (REFERENCE, *recipe.controls) if recipe.iterations else ():
        if accuracy:
            yield _mean_comparison(runs, last, against, accuracy)
        for column in columns:
            if column.label in by_label:
                yield _task_comparison(runs, last, against, by_label[column.label], column)


def _task_comparison(runs: Sequence[_Run], row: str, against: str, source: Source, column: Column) -> SeedComparison:
    pooled = _pooled(runs, row, against, source)
    found = delta(against, pooled)
    verdict = word(found, lower_is_better=column.lower_is_better) if found else "undecided: not every run has it"
    per_run = [difference(row, against, source, run.scores).paired for run in runs]
    return _comparison((row, against, column.label), per_run, pooled, verdict, is_mixed=_is_mixed(runs, row, against, [source]))


def _mean_comparison(runs: Sequence[_Run], row: str, against: str, tasks: Sequence[Source]) -> SeedComparison:
    parts = {source.label: _pooled(runs, row, against, source) for source in tasks}
    known = [part for part in parts.values() if part is not None]
    missing = [label for label, part in parts.items() if part is None]
    pooled = None if missing else mean_of_differences(known)
    per_run = [average_difference(row, against, tasks, run.scores) for run in runs]
    verdict = goal(delta(against, pooled), missing)
    return _comparison((row, against, MEAN), per_run, pooled, verdict, is_mixed=_is_mixed(runs, row, against, tasks))


def _is_mixed(runs: Sequence[_Run], row: str, against: str, tasks: Sequence[Source]) -> bool:
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


def _pooled(runs: Sequence[_Run], row: str, against: str, source: Source) -> Paired | None:
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
