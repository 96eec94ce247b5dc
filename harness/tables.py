"""The tables of a run or of several seeds: collect, render, write.

They need the committed records alone (no weights, no samples), and equal records give equal bytes: no time, no path of a machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

from harness.artifact import dump, write_atomic
from harness.cells import collect
from harness.latex import to_latex
from harness.rendering import to_csv, to_markdown, to_terminal
from harness.results import ResultTable, SeedTable
from harness.seeds import combine

__all__ = ["FILES", "Format", "collect", "combine", "print_tables", "render", "write_tables"]

TABLES_DIR = "tables"
Format = Literal["markdown", "latex", "csv", "json"]
FILES: dict[Format, str] = {"markdown": "tables.md", "latex": "tables.tex", "csv": "tables.csv", "json": "tables.json"}


def write_tables(run: Path) -> list[Path]:
    """Write RUN/tables/tables.md, .tex, .csv and .json; return their paths."""
    table = collect(run)
    for format, name in FILES.items():
        write_atomic(run / TABLES_DIR / name, render(table, format).encode())
    return [run / TABLES_DIR / name for name in FILES.values()]


def render(table: ResultTable | SeedTable, format: Format) -> str:
    """The table as text: Markdown, LaTeX, CSV with a line a cell, or the JSON whose layout is harness/results.py."""
    if format == "json":
        return dump(table).decode()
    return {"markdown": to_markdown, "latex": to_latex, "csv": to_csv}[format](table)


def print_tables(table: ResultTable | SeedTable, console: Console) -> None:
    """Show the table on a terminal."""
    to_terminal(table, console)
