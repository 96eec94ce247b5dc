"""A block: a titled grid of plain text, and how it is cut to fit a narrow page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

WIDE = 7
"""Above this many columns a narrow page shows a block turned on its side."""


class Block(NamedTuple):
    """A grid of text, its first column naming the rows, and what must be read with it. Numbers go right, prose goes left."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[str, ...] = ()
    is_prose: bool = False


def fit(block: Block, width: int, gap: int = 2) -> list[Block]:
    """`block` as grids of at most `width` characters with `gap` between columns; each repeats the first column.

    Tasks go down where there are many. Intervals move under their difference where a line is too long for two of them.
    """
    shown = _turned(block) if len(block.header) > WIDE else block
    if not shown.rows or _width(shown, gap) <= width:
        return [shown]
    broken = shown._replace(rows=tuple(tuple(_broken(text) for text in row) for row in shown.rows))
    parts = _parts(broken, width, gap)
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


def _parts(block: Block, width: int, gap: int) -> list[list[int]]:
    """The columns after the first, packed in order into lines of `width`."""
    sizes = _sizes(block)
    parts: list[list[int]] = []
    used = width
    for column in range(1, len(block.header)):
        if used + gap + sizes[column] > width or not parts:
            parts.append([])
            used = sizes[0]
        parts[-1].append(column)
        used += gap + sizes[column]
    return parts


def _width(block: Block, gap: int) -> int:
    sizes = _sizes(block)
    return sum(sizes) + gap * (len(sizes) - 1)


def _sizes(block: Block) -> list[int]:
    return [max(len(line) for text in column for line in text.split("\n")) for column in zip(block.header, *block.rows, strict=True)]


def _broken(text: str) -> str:
    """A difference on lines of its own: number, interval, what it says."""
    return re.sub(r" (?=\[)|(?<=\]):? ", "\n", text)


def _pick(row: Sequence[str], columns: Sequence[int]) -> tuple[str, ...]:
    return tuple(row[column] for column in columns)


def _turned(block: Block) -> Block:
    grid = (block.header, *block.rows)
    turned = tuple(zip(*grid, strict=True))
    return block._replace(header=turned[0], rows=turned[1:])
