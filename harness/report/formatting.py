"""How values, differences and columns are written for people, and how a text from outside gets to where people read it.

Every text that is not ours (a recipe's, a record's, a model's, a file's name) passes `visible` on its way out: to a terminal by
`Terminal`, to Markdown, LaTeX and CSV by `one_line`, to HTML by the template engine.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from harness.analysis.differences import ABSENT, DECIMALS, delta_text, direction
from harness.analysis.table_schema import Cell, Column, Comparison, Delta


def value_text(cell: Cell, column: Column) -> str:
    if cell.status == "unscored":
        return f"unscored {cell.n_unscored}/{cell.n}"
    if cell.value is None:
        return cell.notes[0] if cell.status == "incomplete" else cell.status
    digits = DECIMALS[column.unit]
    text = f"{cell.value:.{digits}f}{_error_text(cell, digits)}"
    if cell.n_unscored:
        text += f", unscored {cell.n_unscored}/{cell.n}"
    return text if column.n in (None, cell.n) else f"{text}, n {cell.n}"


def _error_text(cell: Cell, digits: int) -> str:
    """The standard error, or the interval where all answers are alike."""
    if cell.stderr is not None:
        return f" ± {cell.stderr:.{digits}f}"
    return "" if cell.low is None or cell.high is None else f" [{cell.low:.{digits}f}, {cell.high:.{digits}f}]"


def heading(column: Column) -> str:
    return f"{column.label} ↓" if column.lower_is_better else column.label


def arrow_note(columns: Sequence[Column]) -> str:
    return "↓: lower is better." if any(column.lower_is_better for column in columns) else ""


def _limited(n: int, limit: int) -> str:
    return f"first {n}" if n == limit else f"{n} (limit {limit})"


def questions_text(column: Column) -> str:
    return "" if column.n is None else str(column.n) if column.limit is None else _limited(column.n, column.limit)


def outcome_text(found: Delta | None, column: Column) -> str:
    return ABSENT if found is None else f"{delta_text(found, column)}: {direction(found, lower_is_better=column.lower_is_better)}"


def lacking_text(one: Comparison) -> str:
    return f" ({len(one.mean_over)} of {len(one.mean_over) + len(one.missing)} tasks)" if one.missing else ""


def comparable_text(cell: Cell, numbers: Mapping[str, int]) -> str:
    """'evaluation and training' or 'evaluation' where those are the same, and the reasons against the rest."""
    same = "evaluation and training" if cell.comparable else "evaluation" if cell.same_evaluation else "no"
    return " ".join([same, *(f"({numbers[reason]})" for reason in cell.reasons)])


LIMIT = 4000
"""Characters of a text that are shown."""
FORMULA_STARTS = ("=", "+", "-", "@")
KEPT = "\n\t\u200c\u200d"
"""Line feed, tab and the two joiners that scripts and emoji need."""


def visible(text: str) -> str:
    """`text` with control, bidirectional, invisible and half characters written as [U+202E]."""
    return text if text.isascii() and text.isprintable() else "".join(_shown(char) for char in text)


def one_line(text: str) -> str:
    """`visible` text on one line."""
    return visible(" ".join(text.split()))


def csv_text(value: Any) -> Any:
    """A CSV cell: text on one line that no spreadsheet takes for a formula; what is no text as it is."""
    if not isinstance(value, str):
        return value
    line = one_line(value)
    return f"'{line}" if line.startswith(FORMULA_STARTS) else line


class Terminal(Console):
    """A console on which no text can move the cursor, change the window or reorder what is read, whoever prints it and how."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """As rich's, every text `visible`; rich's own control codes stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


def shortened(text: str) -> str:
    """The first `LIMIT` characters, and how many more there are."""
    return text if len(text) <= LIMIT else f"{text[:LIMIT]} [... {len(text) - LIMIT} more characters]"


def _shown(char: str) -> str:
    hidden = unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char not in KEPT
    return f"[U+{ord(char):04X}]" if hidden else char
