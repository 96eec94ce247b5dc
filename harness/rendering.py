"""ResultTable and SeedTable -> terminal, Markdown, CSV. (JSON is the model itself: artifact.dump.)

Terminal and Markdown show the same blocks; a block is a titled grid of plain text with lines under it. All text is escaped on its
way out.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.differences import word
from harness.results import Cell, Column, Comparison, Delta, PublishedTable, ResultTable, SeedTable

DECIMALS = {"percent": 2, "points": 2, "nats": 3}
ABSENT = "–"  # noqa: RUF001
WIDE = 7
"""Above this many columns the terminal shows a block turned on its side."""


class Block(NamedTuple):
    """A grid of text, its first column naming the rows, and what must be read with it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[str, ...] = ()


def blocks(table: ResultTable) -> list[Block]:
    """Scores, differences, the last iteration in words, the published numbers."""
    return [_scores(table), _deltas(table), _comparisons(table), *(_published(table, one) for one in table.published)]


def seed_blocks(table: SeedTable) -> list[Block]:
    """Mean and spread over the runs, and each run's last iteration against the others."""
    labels = {column.label: column for column in table.columns}
    header = ("", *(_heading(column) for column in table.columns))
    grid = tuple((row, *(_spread(table, row, column) for column in table.columns)) for row in table.rows)
    runs = ", ".join(table.runs)
    about = f"Mean ± standard deviation over {len(table.runs)} runs: {runs}. {_direction(table.columns)}"
    spread = Block("Mean over seeds", header, grid, (about, *table.notes))
    lasts = tuple(
        (
            f"{one.row} - {one.against}",
            one.column,
            *(_delta(found, labels.get(one.column)) for found in one.per_run),
            _delta(one.pooled, labels.get(one.column)),
            _delta(one.over_seeds, labels.get(one.column)),
            one.verdict,
        )
        for one in table.comparisons
    )
    last = Block(
        "Last iteration",
        ("", "task", *table.runs, "pooled over questions", "over seeds", "pooled says"),
        lasts,
        (
            "95 % paired intervals. Pooled: each question's mean over these runs, paired over questions; it speaks about these seeds. "
            "Over seeds: t interval over the runs' differences; it speaks about another seed.",
        ),
    )
    return [spread, last]


def to_markdown(table: ResultTable | SeedTable) -> str:
    """The table as Markdown, fit for a README."""
    found = blocks(table) if isinstance(table, ResultTable) else seed_blocks(table)
    title = table.recipe if isinstance(table, ResultTable) else " + ".join(table.runs)
    intro = [f"# {_md(title)}", "", _md(table.summary), ""]
    return "\n".join([*intro, *(line for block in found for line in _markdown_block(block))]).rstrip() + "\n"


def to_terminal(table: ResultTable | SeedTable, console: Console) -> None:
    """Print the table on `console`; wide blocks are turned so that tasks go down."""
    for block in blocks(table) if isinstance(table, ResultTable) else seed_blocks(table):
        shown = _turned(block) if len(block.header) > WIDE and isinstance(table, ResultTable) else block
        if shown.rows:
            grid = Table(*(escape(name) for name in shown.header), title=escape(shown.title), title_justify="left")
            for row in shown.rows:
                grid.add_row(*(escape(text) for text in row))
            console.print(grid)
        else:
            console.print(escape(shown.title), style="bold")
        for line in shown.lines:
            console.print(escape(line))
        console.print()


def to_csv(table: ResultTable | SeedTable) -> str:
    """One line a cell; empty is unknown. Of a run: ours first (`source` is 'ours'), then the published numbers under their table's name."""
    out = io.StringIO()
    writer = csv.DictWriter(
        out, CSV_FIELDS if isinstance(table, ResultTable) else ("row", "column", "mean", "sd", "n"), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(_csv_rows(table) if isinstance(table, ResultTable) else (one.model_dump() for one in table.spreads))
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
    "n_unscored", "difference_from_sft", "low", "high", "pairs", "p", "p_holm", "method", "published", "published_table",
    "published_protocol", "comparable", "reasons", "notes",
)  # fmt: skip


def _csv_cell(cell: Cell, column: Column) -> dict[str, Any]:
    shared = column.model_dump(include={"metric", "unit", "lower_is_better", "protocol", "shots", "limit"})
    own = cell.model_dump(include={"row", "status", "value", "stderr", "n", "n_unscored", "comparable"})
    delta, published = cell.delta, cell.published
    return {
        "source": "ours", "task": cell.column, **shared, **own,
        **({} if delta is None else delta.model_dump(include={"low", "high", "p", "p_holm", "method"})),
        "difference_from_sft": delta.difference if delta else None,
        "pairs": delta.n if delta else None,
        "published": published.value if published else None,
        "published_table": published.table if published else None,
        "published_protocol": published.protocol if published else None,
        "reasons": "; ".join(cell.reasons),
        "notes": "; ".join(cell.notes),
    }  # fmt: skip


def _scores(table: ResultTable) -> Block:
    notes, mark = _footnotes(table.cells)
    grid = [(row, *(_value(table.cell(row, c.label), c) + mark(table.cell(row, c.label)) for c in table.columns)) for row in table.rows]
    facts = [
        ("metric", *(c.metric for c in table.columns)),
        ("shots", *("" if c.shots is None else str(c.shots) for c in table.columns)),
        ("questions", *(_questions(c) for c in table.columns)),
    ]
    lines = [f"Value ± standard error; percent, except MT-Bench in points of 10 and kl in nats. {_direction(table.columns)}".strip()]
    return Block("Scores", _header(table), tuple(grid + facts), (*lines, *notes, *(f"Note: {note}." for note in table.notes)))


def _deltas(table: ResultTable) -> Block:
    grid = tuple((row, *(_delta(table.cell(row, c.label).delta, c, p=True) for c in table.columns)) for row in table.rows if row != "sft")
    num = sum(cell.delta is not None and cell.delta.p is not None for cell in table.cells)
    lines = (f"Row - sft on the same questions, 95 % interval; p after Holm's correction for the {num} differences of this table.",)
    return Block("Difference from sft", _header(table), grid, lines)


def _comparisons(table: ResultTable) -> Block:
    """The last iteration less each other row, tasks going down, and what the mean says in words."""
    told = [(_heading(column), [_outcome(one.tasks.get(column.label), column) for one in table.comparisons]) for column in table.columns]
    means = ("mean over tasks", *(_delta(one.mean, None) + _lacking(one) for one in table.comparisons))
    grid = (means, *((label, *cells) for label, cells in told)) if table.comparisons else ()
    header = ("", *(f"{one.row} - {one.against}" for one in table.comparisons))
    lines = [f"{one.row} against {one.against}: {one.verdict}." for one in table.comparisons]
    over = sorted({f"Mean over {', '.join(one.mean_over)}." for one in table.comparisons if one.mean_over})
    return Block("Last iteration", header, grid, (*lines, *over, "95 % paired intervals, one comparison at a time."))


def _lacking(one: Comparison) -> str:
    return f" ({len(one.mean_over)} of {len(one.mean_over) + len(one.missing)} tasks)" if one.missing else ""


def _outcome(found: Delta | None, column: Column) -> str:
    return ABSENT if found is None else f"{_delta(found, column)}: {word(found, lower_is_better=column.lower_is_better)}"


def _published(table: ResultTable, one: PublishedTable) -> Block:
    tasks = tuple(one.reasons)
    grid = tuple((row, *(_printed(table, one, row, task) for task in tasks)) for row in one.rows)
    lines = [f"As printed in {one.where}; protocol: {one.protocol}."]
    if any(not reasons for reasons in one.reasons.values()):
        lines.append("In parentheses: ours, under the same protocol.")
    for reasons in dict.fromkeys(found for found in one.reasons.values() if found):
        barred = [task for task, found in one.reasons.items() if found == reasons]
        lines.append(f"Not comparable with ours, {', '.join(barred)}: {'; '.join(reasons)}.")
    lines += [*_row_notes(one), *([f"{one.gains}."] if one.gains else [])]
    return Block(f"Published: {one.table}", ("", *tasks), grid, tuple(lines))


def _row_notes(one: PublishedTable) -> Iterator[str]:
    """The source's remark on the whole table, then those on single rows."""
    shared = min(one.notes.values(), key=len, default="")
    if shared:
        yield f"{shared}."
    for row, note in one.notes.items():
        if note != shared:
            yield f"{row}: {note.removesuffix(f'; {shared}')}."


def _printed(table: ResultTable, one: PublishedTable, row: str, task: str) -> str:
    value = one.rows[row].get(task)
    if value is None:
        return "not reported"
    ours = [cell for cell in table.cells if (cell.row, cell.column) == (row, task) and cell.value is not None and cell.comparable]
    here = [cell for cell in ours if cell.published is not None and cell.published.table == one.table]
    return f"{value:.2f}" + (f" ({here[0].value:.2f})" if here else "")


def _value(cell: Cell, column: Column) -> str:
    if cell.status == "unscored":
        return f"unscored {cell.n_unscored}/{cell.n}"
    if cell.value is None:
        return cell.notes[0] if cell.status == "incomplete" else cell.status
    digits = DECIMALS[column.unit]
    text = f"{cell.value:.{digits}f}" + ("" if cell.stderr is None else f" ± {cell.stderr:.{digits}f}")
    if cell.n_unscored:
        text += f", unscored {cell.n_unscored}/{cell.n}"
    return text if column.n in (None, cell.n) else f"{text}, n {cell.n}"


def _delta(found: Delta | None, column: Column | None, *, p: bool = False) -> str:
    if found is None:
        return ABSENT
    digits = DECIMALS[column.unit] if column else 2
    text = f"{found.difference:+.{digits}f}"
    if found.low is not None and found.high is not None:
        text += f" [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
    return text + (f" p {_p(found.p_holm)}" if p and found.p_holm is not None else "")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _spread(table: SeedTable, row: str, column: Column) -> str:
    found = next(one for one in table.spreads if (one.row, one.column) == (row, column.label))
    if found.mean is None:
        return f"{found.n} of {len(table.runs)} runs"
    digits = DECIMALS[column.unit]
    return f"{found.mean:.{digits}f}" + ("" if found.sd is None else f" ± {found.sd:.{digits}f}")


def _footnotes(cells: Sequence[Cell]) -> tuple[list[str], Callable[[Cell], str]]:
    """Lines for the cells' notes, and the mark each cell carries."""
    numbers: dict[str, int] = {}
    for cell in cells:
        for note in cell.notes if cell.status != "incomplete" else ():
            numbers.setdefault(note, len(numbers) + 1)
    lines = [f"({number}) {note}." for note, number in numbers.items()]
    return lines, lambda cell: "".join(f" ({numbers[note]})" for note in cell.notes if note in numbers)


def _header(table: ResultTable) -> tuple[str, ...]:
    return ("", *(_heading(column) for column in table.columns))


def _heading(column: Column) -> str:
    return f"{column.label} ↓" if column.lower_is_better else column.label


def _direction(columns: Sequence[Column]) -> str:
    return "↓: lower is better." if any(column.lower_is_better for column in columns) else ""


def _questions(column: Column) -> str:
    return "" if column.n is None else str(column.n) if column.limit is None else f"{column.n} (limit {column.limit})"


def _turned(block: Block) -> Block:
    grid = (block.header, *block.rows)
    turned = tuple(zip(*grid, strict=True))
    return block._replace(header=turned[0], rows=turned[1:])


def _markdown_block(block: Block) -> Iterator[str]:
    yield from (f"## {_md(block.title)}", "")
    if block.rows:
        yield "| " + " | ".join(_md(text) for text in block.header) + " |"
        yield "|---|" + "---:|" * (len(block.header) - 1)
        yield from ("| " + " | ".join(_md(text) for text in row) + " |" for row in block.rows)
        yield ""
    yield from (f"- {_md(line)}" for line in block.lines)
    yield ""


def _md(text: str) -> str:
    """Text that Markdown shows as it is, on one line; underscores inside words need no escape."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*|]|(?<=\])\(|(?<!\w)_|_(?!\w))", r"\\\1", plain)
