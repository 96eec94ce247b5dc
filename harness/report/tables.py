"""The tables of a run, of several runs or of a sweep, written for a terminal, as Markdown, LaTeX (latex.py), CSV and JSON.

They are made from the committed records alone (no weights, no samples), and equal records give equal bytes: no time, no path of a
machine. All text is escaped on its way out.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.analysis.run_table import collect
from harness.analysis.seed_table import combine
from harness.analysis.sweep_table import compare_variants
from harness.analysis.table_schema import Cell, Column, ResultTable, SeedTable, Spread
from harness.files import dump, write_atomic
from harness.report.blocks import all_blocks
from harness.report.formatting import Block, csv_text, fit, one_line
from harness.report.latex import to_latex, to_paper
from harness.runs.sweeps import is_sweep

TABLES_DIR = "tables"
Format = Literal["markdown", "latex", "paper", "csv", "json"]
FILES: dict[Format, str] = {"markdown": "tables.md", "latex": "tables.tex", "csv": "tables.csv", "json": "tables.json"}
GAP = 3
"""Characters between the columns of a terminal's grid."""


def write_tables(run: Path) -> list[Path]:
    """Write RUN/tables/tables.md, .tex, .csv and .json; return their paths."""
    return write_table(run, collect(run))


def write_table(folder: Path, table: ResultTable | SeedTable) -> list[Path]:
    """Write `table` to FOLDER/tables in every format; return their paths."""
    for format, name in FILES.items():
        write_atomic(folder / TABLES_DIR / name, render(table, format).encode())
    return [folder / TABLES_DIR / name for name in FILES.values()]


def write_sweep_tables(folder: Path) -> SeedTable:
    """Write SWEEP/tables/; return its table. A run of a sweep has tables of its own where `write_tables` is asked for them."""
    table = compare_variants(folder)
    write_table(folder, table)
    return table


def write_all_tables(folder: Path) -> list[Path]:
    """Write the tables of the run or the sweep at `folder`; return their paths."""
    if is_sweep(folder):
        write_sweep_tables(folder)
        return [folder / TABLES_DIR / name for name in FILES.values()]
    return write_tables(folder)


def read_table(folders: list[Path]) -> ResultTable | SeedTable:
    """The table of a run, of a sweep, or of several runs that differ in their seeds."""
    if len(folders) > 1:
        return combine(folders)
    return compare_variants(folders[0]) if is_sweep(folders[0]) else collect(folders[0])


def render(table: ResultTable | SeedTable, format: Format) -> str:
    """The table as Markdown, LaTeX (whole, or one small table for a paper), CSV with a line a cell, or JSON (table_schema.py)."""
    if format == "json":
        return dump(table).decode()
    return {"markdown": to_markdown, "latex": to_latex, "paper": to_paper, "csv": to_csv}[format](table)


def to_markdown(table: ResultTable | SeedTable) -> str:
    """The table as Markdown, fit for a README."""
    title = table.recipe if isinstance(table, ResultTable) else table.name
    intro = [f"# {markdown_text(title)}", "", markdown_text(table.summary), ""]
    return "\n".join([*intro, *(line for block in all_blocks(table) for line in _markdown_block(block))]).rstrip() + "\n"


def print_tables(table: ResultTable | SeedTable, console: Console) -> None:
    """Print the table on `console`; what is too wide for it is cut into several grids, never into pieces of words."""
    for block in all_blocks(table):
        print_block(block, console)


def print_block(whole: Block, console: Console) -> None:
    """Print a block, cut to the console's width."""
    for block in fit(whole, console.width, GAP):
        console.print(escape(block.title), style="bold")
        if block.rows:
            console.print(_grid(block))
        for line in block.lines:
            console.print(escape(line))
        console.print()


def _grid(block: Block) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    for place, name in enumerate(block.header):
        grid.add_column(escape(name), justify="left" if place == 0 or block.is_prose else "right", overflow="fold")
    for row in block.rows:
        grid.add_row(*(escape(text) for text in row))
    return grid


def to_csv(table: ResultTable | SeedTable) -> str:
    """One line a cell; empty is unknown. Of a run: ours first (`source` is 'ours'), then the published numbers under their table's name."""
    out = io.StringIO()
    fields = CSV_FIELDS if isinstance(table, ResultTable) else tuple(Spread.model_fields)
    writer = csv.DictWriter(out, fields, lineterminator="\n")
    writer.writeheader()
    rows = _csv_rows(table) if isinstance(table, ResultTable) else (one.model_dump() for one in table.spreads)
    writer.writerows({name: csv_text(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _csv_rows(table: ResultTable) -> Iterator[dict[str, Any]]:
    by_label = {column.label: column for column in table.columns}
    for cell in table.cells:
        yield _csv_cell(cell, by_label[cell.column])
    for one in table.published:
        shared = {"source": one.table, "protocol": one.protocol}
        for row, values in one.rows.items():
            for task, value in values.items():
                yield {**shared, "row": row, "task": task, "value": value, "reasons": "; ".join(one.reasons.get(task, ()))}


CSV_FIELDS = (
    "source", "row", "task", "metric", "unit", "lower_is_better", "protocol", "shots", "limit", "status", "value", "stderr", "n",
    "n_unscored", "difference_from_sft", "low", "high", "pairs", "p", "method", "published", "published_table",
    "published_protocol", "comparable", "same_evaluation", "reasons", "notes",
)  # fmt: skip


def _csv_cell(cell: Cell, column: Column) -> dict[str, Any]:
    shared = column.model_dump(include={"metric", "unit", "lower_is_better", "protocol", "shots", "limit"})
    own = cell.model_dump(include={"row", "status", "value", "stderr", "n", "n_unscored", "comparable", "same_evaluation"})
    delta, published = cell.delta, cell.published
    return {
        "source": "ours", "task": cell.column, **shared, **own,
        **({} if delta is None else delta.model_dump(include={"low", "high", "p", "method"})),
        "difference_from_sft": delta.difference if delta else None,
        "pairs": delta.n if delta else None,
        "published": published.value if published else None,
        "published_table": published.table if published else None,
        "published_protocol": published.protocol if published else None,
        "reasons": "; ".join(cell.reasons),
        "notes": "; ".join(cell.notes),
    }  # fmt: skip


def _markdown_block(block: Block) -> Iterator[str]:
    yield from (f"## {markdown_text(block.title)}", "")
    if block.rows:
        yield "| " + " | ".join(markdown_text(text) for text in block.header) + " |"
        yield "|---|" + ("---|" if block.is_prose else "---:|") * (len(block.header) - 1)
        yield from ("| " + " | ".join(markdown_text(text) for text in row) + " |" for row in block.rows)
        yield ""
    yield from (f"- {markdown_text(line)}" for line in block.lines)
    yield ""


def code_text(text: str) -> str:
    """Text as code in Markdown, on one line."""
    return f"`{one_line(text).replace('`', chr(39))}`"


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, on one line; underscores inside words need no escape."""
    plain = one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*|]|(?<=\])\(|(?<!\w)_|_(?!\w))", r"\\\1", plain)
