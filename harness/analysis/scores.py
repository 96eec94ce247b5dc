"""The scores of a run, read from its committed records alone (recipe.json, done.json, scores/*.json), and what is taken between rows.

A score counts when its stage is finished and its bytes are those recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from harness.analysis.comparability import AVERAGE, LEADERBOARD_TASKS
from harness.analysis.table_schema import Column
from harness.artifact import RunDir, read_recipe
from harness.config import flatten
from harness.contracts import Score
from harness.contracts.run_files import read_file
from harness.errors import InputError
from harness.evaluation.paired import Paired, Strata, mean_of_differences, paired_difference
from harness.evaluation.statistics import Cluster, Estimate, mean_interval, mean_of_tasks, question_of
from harness.evaluation.units import RANGES, is_less_better, is_of_all, lower_is_better, unit_of
from harness.files import parse_model
from harness.plan import folder_of
from harness.recipe import Benchmark, Recipe, Task
from harness.rows import met_by, rows


class TaskColumn(NamedTuple):
    """A task of the recipe as a column of its tables, and where its scores lie in the run directory."""

    label: str
    benchmark: Benchmark
    task: Task
    folder: str

    def score_path(self, row: str) -> str:
        """The score's path in the run directory."""
        return f"{self.stage_path(row)}/{self.file}"

    def stage_path(self, row: str) -> str:
        return f"{row}/eval/{self.folder}"

    @property
    def file(self) -> str:
        return f"scores/{self.task.name}.json"

    @property
    def cluster(self) -> Cluster | None:
        return question_of if self.benchmark.name == "mt_bench" else None

    @property
    def has_opponent(self) -> bool:
        """Whether what is measured depends on the row's opponent, not on the row alone."""
        return self.benchmark.name == "held_out" and not lower_is_better(self.task.metric, self.task.name)


class Difference(NamedTuple):
    """A paired difference, or why there is none."""

    paired: Paired | None
    note: str | None = None


ScoreReader = Callable[[str, TaskColumn], Score | None]
"""(row, column) -> its score; None where it is not there yet."""


class RunScores:
    """A run's recipe, rows, task columns and scores. Scores are read when first asked for; they and their differences are kept."""

    def __init__(self, recipe: Recipe, row_names: tuple[str, ...], read: ScoreReader, met: Callable[[str], str]) -> None:
        self.recipe = recipe
        self.rows = row_names
        self.met = met
        """The row whose responses stand beside the real ones where a row is measured on held-out prompts."""
        self.tasks = task_columns(recipe)
        self.by_label: Mapping[str, TaskColumn] = {column.label: column for column in self.tasks}
        self.leaderboard = _leaderboard(recipe, self.tasks)
        self._read = read
        self._scores: dict[tuple[str, str], Score | None] = {}
        self._differences: dict[tuple[str, str, str], Difference] = {}

    def score(self, row: str, column: TaskColumn) -> Score | None:
        """The score of `row`, or None. Raises InputError where its file is gone or not the one recorded."""
        key = (row, column.label)
        if key not in self._scores:
            self._scores[key] = self._read(row, column)
        return self._scores[key]

    def first(self, column: TaskColumn) -> Score | None:
        """The score of the first row that has one: whose metric, shots and rules the column states."""
        return next((score for row in self.rows if (score := self.score(row, column)) is not None), None)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The tasks in the recipe's order, then the average over the six leaderboard tasks where the recipe has them all."""
        return (*(_column(column, self.first(column)) for column in self.tasks), *([_AVERAGE_COLUMN] if self.leaderboard else []))

    @cached_property
    def accuracy_tasks(self) -> tuple[TaskColumn, ...]:
        """The tasks that count in the mean over tasks; one that stands under several protocols counts once, under the first."""
        first: dict[str, TaskColumn] = {}
        for column in self.columns:
            if column.is_accuracy and column.label in self.by_label:
                first.setdefault(column.task, self.by_label[column.label])
        return tuple(first.values())

    def other_rules(self, row: str, column: TaskColumn) -> tuple[str, ...]:
        """Where the rules `row` was scored under differ from those the column states; nothing where it is not scored."""
        score, first = self.score(row, column), self.first(column)
        return other_rules(score, first) if score and first else ()

    def value(self, row: str, label: str) -> float | None:
        """What the table shows at a row and a column's label, the average included."""
        if label == AVERAGE:
            mean = self.average(row)
            return mean.value if mean else None
        score = self.score(row, self.by_label[label])
        return score.value if score else None

    def average(self, row: str) -> Estimate | None:
        """The mean of the six leaderboard tasks; None while one is missing, unscored or made under other rules, and without them."""
        scores = [score for column in self.leaderboard if (score := self.score(row, column)) is not None and score.value is not None]
        if not scores or len(scores) < len(self.leaderboard) or any(self.other_rules(row, column) for column in self.leaderboard):
            return None
        return mean_of_tasks([estimate_of(score, column) for score, column in zip(scores, self.leaderboard, strict=True)])

    def difference(self, row: str, against: str, column: TaskColumn) -> Difference:
        """`row - against` on one task; none where a score or its values are missing, or the rules or the opponents differ."""
        key = (row, against, column.label)
        if key not in self._differences:
            self._differences[key] = self._difference(row, against, column)
        return self._differences[key]

    def _difference(self, row: str, against: str, column: TaskColumn) -> Difference:
        ours, theirs = self.score(row, column), self.score(against, column)
        if ours and theirs and column.has_opponent and self.met(row) != self.met(against):
            return Difference(None, other_opponents(against))
        return difference_of(ours, theirs, against, column)

    def average_difference(self, row: str, against: str, columns: Sequence[TaskColumn]) -> Paired | None:
        """`row - against` for the unweighted mean over `columns`; None unless all of them have a difference."""
        paired = [self.difference(row, against, column).paired for column in columns]
        known = [part for part in paired if part is not None]
        return mean_of_differences(known) if known and len(known) == len(paired) else None


def load_scores(run: Path, recipe: Recipe | None = None) -> RunScores:
    """The scores of the run at `run`, under its recorded recipe unless another is given. Raises InputError where no run is there."""
    recipe, folder = recipe or read_recipe(run), RunDir(run)
    return RunScores(recipe, rows(recipe), lambda row, column: _read_score(folder, row, column), lambda row: met_by(recipe, row))


def task_columns(recipe: Recipe) -> tuple[TaskColumn, ...]:
    """The recipe's tasks in its order; a task that two benchmarks have is labelled BENCHMARK/TASK, with the protocol where those differ.

    What another judge says of the same answers is labelled judged/PROTOCOL/TASK.
    """
    tasks = [(benchmark, task) for benchmark in recipe.benchmarks for task in benchmark.tasks]
    names = [task.name for benchmark, task in tasks if benchmark.answers_from is None]

    def is_alone(benchmark: Benchmark, task: Task) -> bool:
        return benchmark.answers_from is None and names.count(task.name) == 1

    return tuple(
        TaskColumn(task.name if is_alone(benchmark, task) else f"{folder}/{task.name}", benchmark, task, folder)
        for benchmark, task in tasks
        for folder in [folder_of(benchmark, recipe.benchmarks)]
    )


def _leaderboard(recipe: Recipe, tasks: Sequence[TaskColumn]) -> tuple[TaskColumn, ...]:
    """The six leaderboard tasks where the recipe has them all: under the first protocol that has, else each once; or nothing."""
    known = tuple(column for column in tasks if column.task.name in LEADERBOARD_TASKS)
    together = [tuple(column for column in known if column.benchmark is benchmark) for benchmark in recipe.benchmarks]
    return next((columns for columns in [*together, known] if len(columns) == len(LEADERBOARD_TASKS)), ())


def _read_score(run: RunDir, row: str, column: TaskColumn) -> Score | None:
    record = run.record(column.stage_path(row))
    recorded = record.outputs.get(column.file) if record else None
    if recorded is None:
        return None
    name = column.score_path(row)
    content = read_file(run.path, name)
    if content is None:
        raise InputError(f"{name} is missing though its stage is recorded as done; restore it from the commit it came with")
    return parse_model(Score, content, run.path / name, recorded)


def other_rules(score: Score, first: Score) -> tuple[str, ...]:
    """Where the rules `score` was made under differ from those of `first`: such numbers must not be subtracted."""
    ours, theirs = ({"metric": s.metric, "shots": s.shots, "limit": s.limit, "protocol": s.protocol} for s in (score, first))
    return () if ours == theirs else tuple(_rule_changes(flatten(ours), flatten(theirs)))


def _rule_changes(ours: Mapping[str, object], theirs: Mapping[str, object]) -> Iterator[str]:
    for field in sorted({*ours, *theirs}):
        if ours.get(field) != theirs.get(field):
            yield f"other rules than the rows above: {field} {ours.get(field)!r}, there {theirs.get(field)!r}"


_AVERAGE_COLUMN = Column(
    label=AVERAGE, benchmark=None, task=AVERAGE, metric="mean of the six leaderboard tasks", unit="percent",
    lower_is_better=False, protocol=None, shots=None, limit=None, n=None,
)  # fmt: skip


def _column(column: TaskColumn, score: Score | None) -> Column:
    metric = score.metric if score else column.task.metric
    return Column(
        label=column.label,
        benchmark=column.benchmark.title,
        task=column.task.name,
        metric=metric,
        unit=unit_of(column.benchmark, column.task, score),
        lower_is_better=is_less_better(score) if score else lower_is_better(metric, column.task.name),
        protocol=column.benchmark.protocol,
        shots=score.shots if score else column.task.shots,
        limit=score.limit if score else column.task.limit,
        n=score.n if score else None,
    )


def estimate_of(score: Score, column: TaskColumn) -> Estimate:
    """A score with its error and 95 % interval; an error of 0 is an unknown one: all answers were alike."""
    unit, values = unit_of(column.benchmark, column.task, score), {} if is_of_all(score) else score.values
    found = mean_interval(values, score.value, score.stderr, column.cluster, is_share=unit == "percent")
    least, most = RANGES[unit]
    low, high = (max(found[0], least), min(found[1], most)) if found else (None, None)
    return Estimate(score.value, score.stderr or None, score.n - score.n_unscored, score.n_unscored, low, high)


def other_opponents(against: str) -> str:
    """Why rows that met different opponents are not subtracted."""
    return f"no difference from {against}: set against another opponent"


NO_SUBTASKS = "no interval: the score is a mean over subtasks, and its record does not tell which question belongs to which"
ALL_TOGETHER = "no interval: the metric is one of all questions together, no mean of their values"
OTHER_QUESTIONS = "no interval: the two rows were scored on different questions"


def difference_of(ours: Score | None, theirs: Score | None, against: str, column: TaskColumn) -> Difference:
    """`ours - theirs` over the questions scored in both, weighted as the scores are; none where one is missing or the rules differ."""
    if ours is None or theirs is None:
        return Difference(None)
    if other_rules(ours, theirs):
        return Difference(None, f"no difference from {against}: made under other rules")
    if ours.value is None or theirs.value is None:
        return Difference(None)
    if is_of_all(ours) or is_of_all(theirs):
        return Difference(_plain(ours.value - theirs.value, min(ours.n, theirs.n)), ALL_TOGETHER)
    is_share = unit_of(column.benchmark, column.task, ours) == "percent"
    paired = paired_difference(ours.values, theirs.values, column.cluster, strata_of(ours) or strata_of(theirs), is_share=is_share)
    if paired.difference is None:
        return Difference(None, f"no difference from {against}: no question is scored in both")
    if ours.n_unscored or theirs.n_unscored or math.isclose(ours.value - theirs.value, paired.difference, rel_tol=1e-3, abs_tol=1e-3):
        return Difference(paired)
    note = NO_SUBTASKS if set(ours.values) == set(theirs.values) else OTHER_QUESTIONS
    return Difference(_plain(ours.value - theirs.value, paired.n), note)


def _plain(difference: float, n: int) -> Paired:
    """A difference of two scores of which no more can be said."""
    return Paired(difference, None, None, n, None, "difference of the scores")


def strata_of(score: Score) -> Strata | None:
    """The subtask of each question; None where there are none, and of a record that does not count their questions."""
    counts: Mapping[str, int] = score.details.get("questions", {})
    if not counts:
        return None
    names = [name for name, n in counts.items() for _ in range(n)]
    if len(names) != len(score.values):
        raise InputError(f"a score of {score.task} has {len(score.values)} values and counts {len(names)} questions of its subtasks")
    return Strata(dict(zip(score.values, names, strict=True)), by_size=score.protocol.get("aggregation") != "mean over subtasks")


def mean_score(scores: Sequence[Score]) -> Score:
    """The runs' scores as one: each question's mean over the runs, of the questions scored in every run."""
    values: dict[str, float | None] = {}
    for key in scores[0].values:
        known = [value for score in scores if (value := score.values.get(key)) is not None]
        values[key] = math.fsum(known) / len(known) if len(known) == len(scores) else None
    means = [score.value for score in scores if score.value is not None]
    update = {"value": math.fsum(means) / len(means) if means else None, "values": values}
    return scores[0].model_copy(update={**update, "n_unscored": sum(value is None for value in values.values())})
