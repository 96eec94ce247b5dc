"""What a table is, as frozen data: the layout of tables.json. run_table.py and seed_table.py fill it, harness/report prints it.

Differences are always `row - against`. Units: percent, MT-Bench points of 10, nats, or lm-eval's own (of a perplexity, say), as the column
says. None is unknown.
"""

from __future__ import annotations

import json
import sys
from typing import Literal

from pydantic import TypeAdapter

from harness.config import Strict
from harness.evaluation.units import Unit

LAYOUT = 2
"""Version of the layout of tables.json; it grows when a field changes its meaning or goes away."""


class Column(Strict):
    """A task. `metric`, `shots`, `limit` and `n` are those of the first scored row; `protocol` is the recipe's name for the rules."""

    label: str
    benchmark: str | None
    task: str
    metric: str
    unit: Unit
    lower_is_better: bool
    protocol: str | None
    shots: int | None
    limit: int | None
    n: int | None

    @property
    def is_accuracy(self) -> bool:
        """Whether it counts in the mean over tasks: in percent, more is better, and a task: telling real from generated is none."""
        return self.unit == "percent" and not self.lower_is_better and self.benchmark != "held_out"


class Delta(Strict):
    """`row - against`, paired over `n` questions, with its 95 % interval and the two-sided `p` of the interval's own test.

    Interval and p are None where the sample shows no spread.
    """

    against: str
    difference: float
    low: float | None
    high: float | None
    n: int
    p: float | None
    method: str


class Published(Strict):
    """A published number: where it stands and under which rules it was made."""

    value: float
    table: str
    protocol: str
    where: str


class Cell(Strict):
    """One row's result on one column. The marks and `reasons` speak about `published`; None means nothing was published.

    `same_evaluation`: the two numbers differ by their weights and chance alone; `from_published` is ours less theirs, only there.
    `comparable`: the weights are the published ones or trained alike, too. `training_reasons` are those of `reasons` that deny it.
    `stderr` and the 95 % interval are None where the sample cannot tell them.
    status: scored; unscored (answered, not one verdict readable); incomplete (an average that lacks tasks); not run.
    """

    row: str
    column: str
    status: Literal["scored", "unscored", "incomplete", "not run"]
    value: float | None = None
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    n_unscored: int = 0
    delta: Delta | None = None
    published: Published | None = None
    from_published: Delta | None = None
    comparable: bool | None = None
    same_evaluation: bool | None = None
    reasons: tuple[str, ...] = ()
    training_reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class PublishedTable(Strict):
    """Numbers as printed elsewhere: {row: {task: value}}, and why the evaluation of each task is not ours.

    `notes` holds what the source says about a row, `gains` which of the printed gains exceed their own sampling error.
    """

    table: str
    protocol: str
    where: str
    rows: dict[str, dict[str, float]]
    reasons: dict[str, tuple[str, ...]]
    notes: dict[str, str] = {}
    gains: str | None = None


class Part(Strict):
    """A turn or a category of MT-Bench in one row: the mean of its `n` scored answers, None where none was scored."""

    row: str
    column: str
    kind: Literal["turn", "category"]
    name: str
    value: float | None
    n: int


class Finding(Strict):
    """A claim of the paper and what this run says about it, with the numbers behind that."""

    claim: str
    where: str
    verdict: Literal["supported", "contradicted", "within noise", "not tested"]
    evidence: tuple[str, ...]


class Comparison(Strict):
    """A row against another: {column: difference}, their mean over the accuracy tasks, and what it says."""

    row: str
    against: str
    tasks: dict[str, Delta]
    mean: Delta | None
    mean_over: tuple[str, ...]
    missing: tuple[str, ...]
    verdict: str


class ResultTable(Strict):
    """Everything the tables of one run show. `cells` go row by row in the order of `rows` and `columns`.

    `comparisons` hold the last iteration against `sft` and the controls, `from_sft` every other row against `sft`, `gains` each
    iteration against the one before.
    """

    layout: int = LAYOUT
    recipe: str
    summary: str
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    cells: tuple[Cell, ...]
    comparisons: tuple[Comparison, ...]
    from_sft: tuple[Comparison, ...] = ()
    gains: tuple[Comparison, ...] = ()
    parts: tuple[Part, ...] = ()
    findings: tuple[Finding, ...] = ()
    published: tuple[PublishedTable, ...]
    notes: tuple[str, ...] = ()

    def cell(self, row: str, column: str) -> Cell:
        """The cell at a row's name and a column's label."""
        return next(cell for cell in self.cells if (cell.row, cell.column) == (row, column))


class Spread(Strict):
    """Mean and standard deviation over the `n` runs that have a value; the mean is None until all have one made under the same rules.

    `note` says in which rules the runs differ.
    """

    row: str
    column: str
    mean: float | None
    sd: float | None
    n: int
    note: str | None = None


class SeedComparison(Strict):
    """The last iteration against another row on one column (or 'mean over tasks') in every run, and over all runs.

    `pooled` pairs each question's mean over the runs; `over_seeds` is the t interval over the runs' differences. The verdict is that of
    `over_seeds`, of `pooled` where there is one run.
    """

    row: str
    against: str
    column: str
    per_run: tuple[Delta | None, ...]
    pooled: Delta | None
    over_seeds: Delta | None
    verdict: str


class SeedTable(Strict):
    """Several runs of one recipe that differ in their seeds, or the variants of a sweep side by side.

    `findings` speak about the recipe (of a sweep: the first variant's) over seeds. `reasons` ({row: why its average over the six tasks
    may in some run not be compared with the paper's}) has the published rows, and none where the recipe names no published model.
    """

    layout: int = LAYOUT
    name: str
    summary: str
    runs: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    spreads: tuple[Spread, ...]
    comparisons: tuple[SeedComparison, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    reasons: dict[str, tuple[str, ...]] = {}


def to_text() -> str:
    """The schema of a run's table, or of several runs' table, as JSON Schema 2020-12."""
    schema = TypeAdapter(ResultTable | SeedTable).json_schema(mode="serialization")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"harness tables, layout {LAYOUT}"}
    return json.dumps({**head, **schema}, indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(to_text())
