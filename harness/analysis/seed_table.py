"""Several runs of one recipe that differ in their seeds -> mean and spread, and the last iteration's differences in each and in all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from harness.analysis.claims import Effect, check_claims_by
from harness.analysis.comparability import AVERAGE, formula_notes
from harness.analysis.differences import delta, delta_text, direction, goal
from harness.analysis.run_table import average_against, unfinished_notes
from harness.analysis.scores import RunScores, TaskColumn, difference_of, load_scores, mean_score, other_rules
from harness.analysis.table_schema import Column, Delta, Finding, SeedComparison, SeedTable, Spread
from harness.artifact import RunDir
from harness.config import flatten
from harness.errors import InputError
from harness.evaluation.paired import Paired, mean_of_differences, t_interval
from harness.evaluation.statistics import spread
from harness.files import canonical
from harness.recipe import Recipe
from harness.rows import contests

MEAN = "mean over tasks"
SEEDS = ("seed", "shuffle_seed")
"""Names of fields, at any depth, in which the runs of a table must differ."""
WORDS = ("name", "summary", "because", "claims")
"""A recipe's own fields that may differ between the runs: they change no result."""
FIELDS_SHOWN = 5
"""Fields that an error names."""
Pairs = Sequence[tuple[str, str]]
"""(row, against) of each comparison."""
Says = Callable[[Delta | None], str]
"""What a difference says, in words."""


class SeedScores:
    """The scores of runs that differ in their seeds: rows, columns and recipe are the first run's. Pooled differences are kept."""

    def __init__(self, runs: Sequence[RunScores]) -> None:
        self.runs = runs
        self.first = runs[0]
        self._pooled: dict[tuple[str, str, str], Paired | None] = {}

    def rules_note(self, row: str, label: str) -> str | None:
        """In which rules the runs' scores differ (of an average: those of its tasks), or None."""
        changes: set[str] = set()
        for column in self.first.leaderboard if label == AVERAGE else [self.first.by_label[label]]:
            first, *others = (run.score(row, column) for run in self.runs)
            found = [change for other in others if first and other for change in other_rules(other, first)]
            changes |= {f"{column.label}: {change}" for change in found}
        return "; ".join(sorted(changes)).replace("the rows above", self.first.recipe.name) or None

    def is_mixed(self, row: str, against: str, columns: Sequence[TaskColumn]) -> bool:
        """Whether the runs were scored under different rules on one of `columns`."""
        return any(self.rules_note(name, column.label) for name in (row, against) for column in columns)

    def pooled(self, row: str, against: str, column: TaskColumn) -> Paired | None:
        """The paired difference of each question's mean over the runs; None unless every run has both scores under one set of rules."""
        key = (row, against, column.label)
        if key not in self._pooled:
            self._pooled[key] = self._pool(row, against, column)
        return self._pooled[key]

    def _pool(self, row: str, against: str, column: TaskColumn) -> Paired | None:
        missing = any(run.difference(row, against, column).paired is None for run in self.runs)
        if missing or self.is_mixed(row, against, [column]):
            return None
        if len(self.runs) == 1:
            return self.first.difference(row, against, column).paired
        ours, theirs = (mean_score([score for run in self.runs if (score := run.score(name, column))]) for name in (row, against))
        return difference_of(ours, theirs, against, column).paired


def combine(folders: Sequence[Path]) -> SeedTable:
    """The runs' rows and tasks as mean and standard deviation over runs, and the last iteration against every baseline.

    Raises InputError where two recipes differ in more than their seeds, or no run is given.
    """
    if not folders:
        raise InputError("no run to combine; give the directories of runs that differ in their seeds")
    runs = [load_scores(folder) for folder in folders]
    check_same(runs)
    recipe = runs[0].recipe
    by_name = dict(zip(_names(folders, runs), runs, strict=True))
    return seed_table(" + ".join(by_name), recipe.summary, by_name, contests(recipe), [*formula_notes(recipe), *unfinished_runs(folders)])


def _names(folders: Sequence[Path], runs: Sequence[RunScores]) -> list[str]:
    """The recipes' names; the directories' where recipes share one, their paths where directories do, too."""
    choices = ([run.recipe.name for run in runs], [folder.name for folder in folders], [str(folder) for folder in folders])
    return next((names for names in choices if len(set(names)) == len(names)), choices[-1])


def unfinished_runs(folders: Sequence[Path]) -> Iterator[str]:
    """A line for each run that is not finished."""
    yield from (f"{folder.name}: {note}" for folder in folders for note in unfinished_notes(RunDir(folder)))


def seed_table(
    name: str, summary: str, runs: Mapping[str, RunScores], pairs: Pairs, notes: Sequence[str] = (), sizes: Pairs = ()
) -> SeedTable:
    """The table of `runs` ({name: run}), which must have the same rows and columns, with a comparison for each of `pairs`.

    `sizes` are (row, the same trained on less data).
    """
    scores = SeedScores(list(runs.values()))
    comparisons = tuple(_comparisons(scores, pairs))
    return SeedTable(
        name=name,
        summary=summary,
        runs=tuple(runs),
        rows=scores.first.rows,
        columns=scores.first.columns,
        spreads=tuple(_spread(scores, row, column.label) for row in scores.first.rows for column in scores.first.columns),
        comparisons=comparisons,
        findings=tuple(_check_claims(scores, comparisons, sizes)),
        notes=tuple(notes),
        reasons=dict(_reasons(scores)),
    )


def _reasons(scores: SeedScores) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(row, why its average may in some run not be compared with the paper's) of the rows that are published for the recipe's model."""
    for row in scores.first.rows:
        found = [average_against(run, row) for run in scores.runs]
        if any(claim for claim, _ in found):
            yield row, tuple(dict.fromkeys(reason for _, reasons in found for reason in (*reasons.evaluation, *reasons.training)))


def check_same(runs: Sequence[RunScores]) -> None:
    """Raise InputError where the runs' recipes differ in more than their seeds, or two of them have the same seeds."""
    seen: dict[str, str] = {}
    for run in runs:
        _check_pair(runs[0].recipe, run.recipe)
        seeds = canonical({field: value for field, value in flatten(run.recipe).items() if _ends_in(field, SEEDS)})
        if seeds in seen:
            name = run.recipe.name
            both = f"two runs of {name}" if name == seen[seeds] else f"{seen[seeds]} and {name}"
            raise InputError(
                f"{both} have the same seeds, so their mean and spread say nothing about seeds; "
                "give each run once, or `harness compare` two rows"
            )
        seen[seeds] = run.recipe.name


def _check_pair(first: Recipe, other: Recipe) -> None:
    ours, theirs = flatten(first), flatten(other)
    fields = [
        field
        for field in sorted({*ours, *theirs})
        if ours.get(field) != theirs.get(field) and field.split(".")[0] not in WORDS and not _ends_in(field, SEEDS)
    ]
    if fields:
        more = f" and {len(fields) - FIELDS_SHOWN} more fields" if len(fields) > FIELDS_SHOWN else ""
        raise InputError(
            f"{other.name} and {first.name} differ in {', '.join(fields[:FIELDS_SHOWN])}{more}; only runs that differ in their seeds can "
            "be averaged: see `harness compare` for two rows"
        )


def _ends_in(field: str, names: Sequence[str]) -> bool:
    return field.rpartition(".")[2] in names


def _spread(scores: SeedScores, row: str, label: str) -> Spread:
    values, note = [run.value(row, label) for run in scores.runs], scores.rules_note(row, label)
    known = [value for value in values if value is not None]
    if note or len(known) < len(values):
        return Spread(row=row, column=label, mean=None, sd=None, n=len(known), note=note)
    mean, sd = spread(known)
    return Spread(row=row, column=label, mean=mean, sd=sd, n=len(known))


def _comparisons(scores: SeedScores, pairs: Pairs) -> Iterator[SeedComparison]:
    for row, against in pairs:
        if scores.first.accuracy_tasks:
            yield _mean_comparison(scores, row, against)
        for column in scores.first.columns:
            if column.label in scores.first.by_label:
                yield _task_comparison(scores, row, against, column)


def _check_claims(scores: SeedScores, made: Sequence[SeedComparison], sizes: Pairs) -> Iterator[Finding]:
    """The paper's claims by the interval over seeds; by that of the questions where there is one run. `made` is not computed again."""
    known = {(comparison.row, comparison.against, comparison.column): comparison for comparison in made}
    num_runs = len(scores.runs)

    def measure(row: str, against: str, column: Column | None) -> Effect:
        key = (row, against, column.label if column else MEAN)
        comparison = known.get(key) or (_task_comparison(scores, *key[:2], column) if column else _mean_comparison(scores, *key[:2]))
        difference = comparison.over_seeds if num_runs > 1 else comparison.pooled
        pooled = "" if num_runs == 1 else f", pooled over questions {delta_text(comparison.pooled, column)}"
        tasks = column.label if column else f"mean of {len(scores.first.accuracy_tasks)} tasks"
        over = "1 run" if num_runs == 1 else f"{num_runs} runs"
        return Effect(difference, (), f"{row} - {against}: {delta_text(difference, column)}{pooled} ({tasks}, {over})")

    return check_claims_by(measure, scores.first.recipe, scores.first.columns, sizes)


def _task_comparison(scores: SeedScores, row: str, against: str, column: Column) -> SeedComparison:
    task = scores.first.by_label[column.label]
    pooled = scores.pooled(row, against, task)
    per_run = [run.difference(row, against, task).paired for run in scores.runs]

    def says(difference: Delta | None) -> str:
        if difference is None:
            return f"undecided: {scores.first.difference(row, against, task).note or 'not every run has it'}"
        return direction(difference, lower_is_better=column.lower_is_better)

    return _comparison((row, against, column.label), per_run, pooled, says, is_mixed=scores.is_mixed(row, against, [task]))


def _mean_comparison(scores: SeedScores, row: str, against: str) -> SeedComparison:
    tasks = scores.first.accuracy_tasks
    parts = {column.label: scores.pooled(row, against, column) for column in tasks}
    missing = [label for label, part in parts.items() if part is None]
    pooled = None if missing else mean_of_differences([part for part in parts.values() if part is not None])
    per_run = [run.average_difference(row, against, tasks) for run in scores.runs]
    is_mixed = scores.is_mixed(row, against, tasks)
    return _comparison((row, against, MEAN), per_run, pooled, lambda difference: goal(difference, missing), is_mixed=is_mixed)


def _comparison(
    key: tuple[str, str, str], per_run: Sequence[Paired | None], pooled: Paired | None, says: Says, *, is_mixed: bool
) -> SeedComparison:
    """`says` gives the verdict on the difference over seeds, on the pooled one where there is one run."""
    row, against, column = key
    known = [paired.difference for paired in per_run if paired is not None and paired.difference is not None]
    over_seeds = t_interval(known, "t over runs") if known and len(known) == len(per_run) and not is_mixed else None
    decisive = delta(against, over_seeds if len(per_run) > 1 else pooled)
    return SeedComparison(
        row=row,
        against=against,
        column=column,
        per_run=tuple(delta(against, paired) for paired in per_run),
        pooled=delta(against, pooled),
        over_seeds=delta(against, over_seeds),
        verdict=says(decisive),
    )
