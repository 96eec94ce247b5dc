"""A run's scores, samples, pairs and logs as pandas frames: `harness.load_run("results/tiny")`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.analysis.scores import load_scores, task_columns
from harness.artifact import LOG_FILE, RunDir, read_recipe
from harness.contracts.run_files import read_lines, size_of
from harness.errors import InputError, suggest
from harness.recipe import Recipe
from harness.rows import rows
from harness.training.pairs import read_pairs

if TYPE_CHECKING:
    from pandas import DataFrame


class Run:
    """A run's directory, read only. What is not finished or not here is an `InputError` that says so."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe: Recipe = read_recipe(path)

    @property
    def scores(self) -> DataFrame:
        """A line for each finished row and task: row, task, and every field of `harness.contracts.Score`."""
        scores = load_scores(self.path, self.recipe)
        found = [(row, column.label, scores.score(row, column)) for row in scores.rows for column in scores.tasks]
        return _frame([{"row": row, "column": label, **score.model_dump()} for row, label, score in found if score])

    def samples(self, row: str, column: str) -> DataFrame:
        """The questions of a task as the row answered them, one a line (untrusted text); `column` is a column of the tables."""
        columns = {one.label: one for one in task_columns(self.recipe)}
        self._check(row)
        if column not in columns:
            raise InputError(f"{self.path} has no column {column!r}{suggest(column, columns)}")
        found = columns[column]
        return self._lines(f"{found.stage_path(row)}/samples/{found.task.name}.jsonl")

    def pairs(self, iteration: int) -> DataFrame:
        """The pairs an iteration made, one a line: prompt (messages), real, generated, how the generated one ended."""
        if not 0 <= iteration < len(self.recipe.iterations):
            raise InputError(f"{self.path} has no iteration {iteration}; expected one from 0 to {len(self.recipe.iterations) - 1}")
        role, stage = f"responses{iteration}", f"iter{iteration}/generate"
        self._lines("prompts/prompts.jsonl")
        RunDir(self.path).checked_content(stage)
        pairs = read_pairs({"prompts": self.path / "prompts", role: self.path / stage})
        return _frame([pair._asdict() for pair in pairs])[["prompt_id", "prompt", "real", "generated", "finish_reason"]]

    def log(self, row: str) -> DataFrame:
        """The log of a row's training, a line a step; docs/metrics.md says what each column means."""
        self._check(row)
        return self._lines(f"{row}/train/{LOG_FILE}")

    def _check(self, row: str) -> None:
        known = ("pretraining", *rows(self.recipe))
        if row not in known:
            raise InputError(f"{self.path} has no row {row!r}{suggest(row, known)}")

    def _lines(self, name: str) -> DataFrame:
        if size_of(self.path, name) is None:
            place = self.path / name
            raise InputError(f"{place} is not here: not made yet, or left out of what was committed; `harness status` says which")
        return _frame([*read_lines(self.path, name)])


def load_run(path: str | Path) -> Run:
    """The run in directory `path`, such as results/tiny."""
    return Run(Path(path))


def _frame(lines: list[dict[str, Any]]) -> DataFrame:
    import pandas

    return pandas.DataFrame(lines)
