"""How values, differences, columns and grids are written for people, and how a text from outside gets to where people read it.

Every text that is not ours (a recipe's, a record's, a model's, a file's name) passes `visible` on its way out: to a terminal by
`Terminal`, to Markdown, LaTeX and CSV by `one_line`, to HTML by the template engine.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

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


def words_of(value: Any) -> str:
    """A setting as a reader says it: '2, 3', 'yes', 'none'; any other value as it is."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return ", ".join(map(words_of, value)) if isinstance(value, (list, tuple)) else str(value)


def shortened(text: str) -> str:
    """The first `LIMIT` characters, and how many more there are."""
    return text if len(text) <= LIMIT else f"{text[:LIMIT]} [... {len(text) - LIMIT} more characters]"


def _shown(char: str) -> str:
    hidden = unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char not in KEPT
    return f"[U+{ord(char):04X}]" if hidden else char


WIDE = 7
"""Above this many columns a narrow page shows a block turned on its side."""
Measure = Callable[[str], float]
"""How wide a line of text is."""


class Block(NamedTuple):
    """A grid of text, its first column naming the rows, and what must be read with it. Numbers go right, prose goes left."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[str, ...] = ()
    is_prose: bool = False


def fit(block: Block, width: float, gap: float = 2, measure: Measure = len) -> list[Block]:
    """`block` as grids of at most `width`, as `measure` gives it (characters), with `gap` between columns; each repeats the first column.

    Tasks go down where there are many. Intervals move under their difference where a line is too long for two of them.
    """
    shown = _turned(block) if len(block.header) > WIDE else block
    if not shown.rows or _width(shown, gap, measure) <= width:
        return [shown]
    if not block.is_prose and _width(_turned(shown), gap, measure) <= width:
        return [_turned(shown)]
    broken = shown._replace(rows=tuple(tuple(_broken(text) for text in row) for row in shown.rows))
    if not block.is_prose and _width(_turned(broken), gap, measure) <= width < _width(broken, gap, measure):
        return [_turned(broken)]
    parts = _parts(broken, width, gap, measure)
    columns = [[0, *part] for part in parts]
    grids = [
        Block(
            title=block.title if not k else f"{block.title} (continued)",
            header=_pick(shown.header, part),
            rows=tuple(_pick(row, part) for row in broken.rows),
            is_prose=block.is_prose,
        )
        for k, part in enumerate(columns)
    ]
    return [*grids[:-1], grids[-1]._replace(lines=block.lines)]


def stacked(block: Block) -> Block:
    """`block` for a page: tasks go down where they are many, and an interval stands on a line below its difference."""
    shown = _turned(block) if not block.is_prose and len(block.header) > max(WIDE, len(block.rows) + 1) else block
    return shown._replace(rows=tuple((row[0], *map(_kept, row[1:])) for row in shown.rows)) if not block.is_prose else shown


def _kept(text: str) -> str:
    """A difference on lines of its own, its interval never broken."""
    return re.sub(r"\[[^\]]*\]", lambda found: found.group().replace(" ", "\u00a0"), _broken(text))


def _parts(block: Block, width: float, gap: float, measure: Measure) -> list[list[int]]:
    """The columns after the first, packed in order into lines of `width`."""
    sizes = _sizes(block, measure)
    parts: list[list[int]] = []
    used = width
    for column in range(1, len(block.header)):
        if used + gap + sizes[column] > width or not parts:
            parts.append([])
            used = sizes[0]
        parts[-1].append(column)
        used += gap + sizes[column]
    return parts


def _width(block: Block, gap: float, measure: Measure) -> float:
    sizes = _sizes(block, measure)
    return sum(sizes) + gap * (len(sizes) - 1)


def _sizes(block: Block, measure: Measure) -> list[float]:
    return [max(measure(line) for text in column for line in text.split("\n")) for column in zip(block.header, *block.rows, strict=True)]


def _broken(text: str) -> str:
    """A difference on lines of its own: number, interval, what it says."""
    return re.sub(r" (?=\[)|(?<=\]):? ", "\n", text)


def _pick(row: Sequence[str], columns: Sequence[int]) -> tuple[str, ...]:
    return tuple(row[column] for column in columns)


def _turned(block: Block) -> Block:
    grid = (block.header, *block.rows)
    turned = tuple(zip(*grid, strict=True))
    return block._replace(header=turned[0], rows=turned[1:])
