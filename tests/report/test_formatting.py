"""Text from outside, on its way to a terminal, Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io

import pytest
from rich.markup import escape
from rich.table import Table

from harness.analysis.table_schema import ResultTable
from harness.cli import printing
from harness.report.formatting import Terminal, csv_text, one_line
from harness.report.tables import print_tables, render
from tests.synthetic_runs import small_recipe

HOSTILE = "=1+1 \x1b[2J\x1b]0;title\x07 \u202edesrever\u202c nul\x00 \x9b31m half \ud800 [bold red]live[/bold red] `code`"
HIDDEN = "\x1b\x07\x00\x9b\u202e\u202c\ud800\x7f"


def hostile_table() -> ResultTable:
    """A table all of whose free texts are hostile."""
    recipe = small_recipe()
    return ResultTable(
        recipe=recipe.name, summary=HOSTILE, rows=("sft",), columns=(), cells=(), comparisons=(), from_sft=(), gains=(), findings=(),
        parts=(), published=(), notes=(HOSTILE,),
    )  # fmt: skip


def printed(*values: object, **options: object) -> str:
    console = Terminal(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    console.print(*values, **options)  # type: ignore[arg-type]
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_no_text_commands_the_terminal() -> None:
    """ESC, OSC, NUL, C1, bidi and half characters are written out, in a line, a table and a title alike; markup stays text."""
    grid = Table(title=escape(HOSTILE))
    grid.add_column(escape(HOSTILE))
    grid.add_row(escape(HOSTILE))
    for shown in (printed(HOSTILE, markup=False), printed(grid), printed(printing.table(HOSTILE, [{HOSTILE: HOSTILE}]))):
        assert not set(shown) & set(HIDDEN)
        assert "[U+001B]" in shown
        assert "[bold red]live" in shown


def test_tables_hold_no_hidden_character_in_any_format() -> None:
    """What is read as text, whatever wrote it into a record."""
    table = hostile_table()
    console = Terminal(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    print_tables(table, console)
    texts = [console.file.getvalue(), *(render(table, format) for format in ("markdown", "latex", "csv"))]  # type: ignore[attr-defined]
    for text in texts:
        assert not set(text) & set(HIDDEN)
    assert "[U+202E]" in texts[1]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r\n=1", " =cmd|' /C calc'!A0"])
def test_no_cell_is_a_formula(text: str) -> None:
    """A spreadsheet shows the text; numbers stay numbers."""
    out = io.StringIO()
    csv.writer(out).writerow([csv_text(text)])
    assert out.getvalue().lstrip('"').startswith("'")
    assert csv_text(-1.5) == -1.5
    assert csv_text("arc_challenge") == "arc_challenge"


def test_one_line() -> None:
    """Every kind of line end and blank becomes a space."""
    assert one_line("a\r\nb\u2028c\td") == "a b c d"
