"""The tables of a run or of several seeds: collect, render, write.

They need the committed records alone (no weights, no samples), and equal records give equal bytes: no time, no path of a machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

from harness.analysis.run_table import collect
from harness.analysis.seed_table import combine
from harness.analysis.sweep_table import compare_variants, is_sweep
from harness.analysis.table_schema import ResultTable, SeedTable
from harness.artifact import dump, write_atomic
from harness.report.latex import to_latex
from harness.report.tables import to_csv, to_markdown, to_terminal

__all__ = ["FILES", "Format", "collect", "combine", "print_tables", "read", "render", "write_table", "write_tables"]

TABLES_DIR = "tables"
Format = Literal["markdown", "latex", "csv", "json"]
FILES: dict[Format, str] = {"markdown": "tables.md", "latex": "tables.tex", "csv": "tables.csv", "json": "tables.json"}


def write_tables(run: Path) -> list[Path]:
    """Write RUN/tables/tables.md, .tex, .csv and .json; return their paths."""
    return write_table(run, collect(run))


def write_table(folder: Path, table: ResultTable | SeedTable) -> list[Path]:
    """Write `table` to FOLDER/tables in every format; return their paths."""
    for format, name in FILES.items():
        write_atomic(folder / TABLES_DIR / name, render(table, format).encode())
    return [folder / TABLES_DIR / name for name in FILES.values()]


def read(folders: list[Path]) -> ResultTable | SeedTable:
    """The table of a run, of a sweep, or of several runs that differ in their seeds."""
    if len(folders) > 1:
        return combine(folders)
    return compare_variants(folders[0]) if is_sweep(folders[0]) else collect(folders[0])


def render(table: ResultTable | SeedTable, format: Format) -> str:
    """The table as text: Markdown, LaTeX, CSV with a line a cell, or the JSON whose layout is harness/analysis/table_schema.py."""
    if format == "json":
        return dump(table).decode()
    return {"markdown": to_markdown, "latex": to_latex, "csv": to_csv}[format](table)


def print_tables(table: ResultTable | SeedTable, console: Console) -> None:
    """Show the table on a terminal."""
    to_terminal(table, console)
