"""The scores of a run, read from its committed records alone: recipe.json, done.json and scores/*.json.

A score counts when its stage is finished and its bytes are those recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from harness.analysis.comparability import LEADERBOARD_TASKS
from harness.artifact import RunDir
from harness.config import flatten
from harness.contracts import Score
from harness.errors import InputError
from harness.evaluation.statistics import Cluster, question_of
from harness.files import hash_file, read_model
from harness.plan import folder_of, rows
from harness.recipe import Benchmark, Recipe, Task


class Source(NamedTuple):
    """Where a column's scores come from."""

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


class Scores(dict[tuple[str, str], Score]):
    """{(row, column label): score}, and the differences already taken: each is asked for by several tables."""

    def __init__(self, found: Mapping[tuple[str, str], Score]) -> None:
        super().__init__(found)
        self.differences: dict[tuple[str, str, str], Any] = {}


def sources(recipe: Recipe) -> tuple[Source, ...]:
    """The recipe's tasks in its order; a task that two benchmarks have is labelled BENCHMARK/TASK, with the protocol where those differ."""
    found = [(benchmark, task) for benchmark in recipe.benchmarks for task in benchmark.tasks]
    names = [task.name for _, task in found]
    return tuple(
        Source(task.name if names.count(task.name) == 1 else f"{folder}/{task.name}", benchmark, task, folder)
        for benchmark, task in found
        for folder in [folder_of(benchmark, recipe.benchmarks)]
    )


def leaderboard(recipe: Recipe) -> tuple[Source, ...]:
    """The six leaderboard tasks where the recipe has them all: under the first protocol that has, else each once; or nothing."""
    found = [source for source in sources(recipe) if source.task.name in LEADERBOARD_TASKS]
    together = [tuple(source for source in found if source.benchmark is benchmark) for benchmark in recipe.benchmarks]
    return next((some for some in [*together, tuple(found)] if len(some) == len(LEADERBOARD_TASKS)), ())


def read_scores(run: Path, recipe: Recipe) -> Scores:
    """The scores of the finished evaluations."""
    found = {}
    for row in rows(recipe):
        for source in sources(recipe):
            score = read_score(RunDir(run), row, source)
            if score is not None:
                found[row, source.label] = score
    return Scores(found)


def read_score(run: RunDir, row: str, source: Source) -> Score | None:
    """A finished evaluation's score, or None. Raises InputError where the file is gone or not the one recorded."""
    record = run.record(source.stage_path(row))
    recorded = record.outputs.get(source.file) if record else None
    if recorded is None:
        return None
    name, path = source.score_path(row), run.path / source.score_path(row)
    if not path.exists():
        raise InputError(f"{name} is missing though its stage is recorded as done; restore it from the commit it came with")
    if hash_file(path) != recorded:
        raise InputError(f"{name} is not the file its record names (another sha256); restore it, or see `harness verify`")
    return read_model(Score, path)


def first_score(recipe: Recipe, source: Source, scores: Scores) -> Score | None:
    """The score of the first row that has one: whose metric, shots and rules the column states."""
    return next((scores[row, source.label] for row in rows(recipe) if (row, source.label) in scores), None)


def other_rules(score: Score, first: Score) -> tuple[str, ...]:
    """Where the rules `score` was made under differ from those of `first`: such numbers must not be subtracted."""
    ours, theirs = (flatten({"metric": s.metric, "shots": s.shots, "limit": s.limit, "protocol": s.protocol}) for s in (score, first))
    fields = [field for field in sorted({*ours, *theirs}) if ours.get(field) != theirs.get(field)]
    return tuple(f"other rules than the rows above: {field} {ours.get(field)!r}, there {theirs.get(field)!r}" for field in fields)
