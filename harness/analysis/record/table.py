"""What a published table is, and the columns that several of them share."""

from __future__ import annotations

from typing import NamedTuple

from harness.paper import NOT_STATED


class Claim(NamedTuple):
    """One cell of one published table.

    Example: `claim("paper/leaderboard", "iter0", "gsm8k")` is 35.10, exact match, 5 shots, over 1319 questions.
    """

    table: str
    row: str
    task: str
    value: float
    """As printed: percent, MT-Bench points, or what `metric` says."""
    metric: str
    shots: int | None
    """As the source states them; None where it does not (see PROTOCOL in paper.py for what really ran)."""
    n: int | None
    """Number of questions, inferred from the printed values being exact fractions of it; None where that is unknown."""
    protocol: str
    model: str
    source: str
    where: str
    grade: str
    note: str


class Gain(NamedTuple):
    """A difference the paper prints beside a score, `row` minus `against`, in the unit of the task."""

    table: str
    row: str
    against: str
    task: str
    value: float


class Column(NamedTuple):
    """A task as one table reports it."""

    task: str
    metric: str
    shots: int | None = None
    n: int | None = None


class Table(NamedTuple):
    """A table as printed. `grade` says how it was read: A verbatim, B off a curve or out of released code."""

    id: str
    source: str
    where: str
    protocol: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, str, tuple[float | None, ...]], ...]
    """(row, model, one value a column; None leaves the cell out)."""
    note: str = ""
    row_notes: tuple[tuple[str, str], ...] = ()
    grade: str = "A"

    def cells(self) -> tuple[Claim, ...]:
        """Every cell, row by row."""
        notes = dict(self.row_notes)
        return tuple(
            Claim(
                table=self.id, row=row, task=column.task, value=value,
                metric=column.metric, shots=column.shots, n=column.n, protocol=self.protocol,
                model=model, source=self.source, where=self.where, grade=self.grade,
                note="; ".join(part for part in (notes.get(row), self.note) if part),
            )
            for row, model, values in self.rows
            for column, value in zip(self.columns, values, strict=True)
            if value is not None
        )  # fmt: skip


ARC = Column("arc_challenge", "acc_norm", 25, 1172)
TQA = Column("truthfulqa_mc2", "mc2", 0)
WG = Column("winogrande", "acc", 5, 1267)
GSM = Column("gsm8k", "exact_match", 5, 1319)
HS = Column("hellaswag", "acc_norm", 10)
MMLU = Column("mmlu", "acc", 5)
MEAN_6 = Column("average", "mean of the six tasks")
MEAN_10 = Column("average_10", "mean of T-SPIN's ten tasks")
MT_BENCH = (Column("mt_bench", "mean judge score, 1 to 10"),)

LM_EVAL = "lm-eval@46c7966"
MT = "mt-bench, judge not stated"
TSPIN = "T-SPIN's harness, version not stated"
NO_HARNESS = "harness not stated"
SFT = "alignment-handbook/zephyr-7b-sft-full"
SPIN = "UCLA-AGI/zephyr-7b-sft-full-SPIN-iter"


def unstated(column: Column, metric: str = NOT_STATED) -> Column:
    """The column of a source that gives no metric and no shots."""
    return column._replace(metric=metric, shots=None)


def iterations(product: str, *rows: tuple[float, ...]) -> tuple[tuple[str, str, tuple[float, ...]], ...]:
    """Rows `iter0` and on of models called PRODUCT iterT."""
    return tuple((f"iter{t}", f"{product} iter{t}", values) for t, values in enumerate(rows))
