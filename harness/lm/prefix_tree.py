"""Which tokens of many sequences need computing once: a prefix tree, cut into trunks and rows.

    root ── trunk (few-shot preamble) ─┬─ row: question 1 ─┬─ ending 1        a trunk is computed once and kept as a KV cache;
                                       │                   └─ ending 2        a row packs whole branches of the tree, one after
                                       │       question 2 ─── ending          the other, over the cache of its trunk
                                       └─ row: question 3 ...

Rows come in the order of the tree, so only the trunks above the current row are ever in memory. The layout depends on the sequences and
the budget alone, never on what was answered before: an interrupted task computes each missing row as the uninterrupted one would.
No model and no tensors here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

MIN_TRUNK = 16
"""A shared prefix shorter than this is computed again with each row."""
LONG_TRUNK = 256
"""By default a prefix this long becomes a trunk of its own even above a single row, and so long a sequence a row of its own: that needs
no mask."""


class Scored(NamedTuple):
    """A sequence of which the tokens from `start` on are wanted: each is predicted by the token before it. `start` is at least 1."""

    tokens: tuple[int, ...]
    start: int


class Sizes(NamedTuple):
    """What a layout is made for: tokens of a row, and from how many on a prefix or a sequence stands apart."""

    row_tokens: int
    long_trunk: int


@dataclass
class Trunk:
    """Tokens of a shared prefix that follow those of `parent`. `start` is the position of the first."""

    tokens: list[int]
    start: int
    parent: Trunk | None

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


@dataclass
class Row:
    """Branches of the tree in one row over `trunk`.

    Edges of the tree are numbered in its order: `edge[i]` is token i's, `last[i]` the last one below that. A token sees the trunk and
    each earlier token whose numbers, from `edge` to `last`, include its own. `paths` maps a sequence's index to the places of its tokens.
    """

    trunk: Trunk | None
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    edge: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    paths: dict[int, list[int]] = field(default_factory=dict)

    @property
    def is_chain(self) -> bool:
        """Whether every token sees all before it."""
        return len(set(self.edge)) == 1


@dataclass
class _Node:
    """An edge of the tree: its tokens, the position of the first, and the sequences that end with its last token."""

    tokens: tuple[int, ...]
    start: int
    children: list[_Node] = field(default_factory=list)
    ending: list[int] = field(default_factory=list)
    size: int = 0
    scored_from: int = 0

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


def layout(sequences: Sequence[Scored], row_tokens: int, long_trunk: int = LONG_TRUNK) -> list[Row]:
    """Rows that hold every sequence once, about `row_tokens` tokens each (more where one branch is longer)."""
    rows: list[Row] = []
    for node in _tree([(scored.tokens[:-1], scored.start - 1) for scored in sequences]):
        _place(node, None, rows, Sizes(row_tokens, long_trunk))
    return [row for row in rows if row.tokens]


def _tree(inputs: Sequence[tuple[tuple[int, ...], int]]) -> list[_Node]:
    """The children of the root: the prefix tree of (tokens, index of the first token that predicts) pairs."""
    ends: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, (tokens, _) in enumerate(inputs):
        ends[tokens].append(i)
    root = _Node((), 0)
    path = [root]
    previous: tuple[int, ...] = ()
    for tokens in sorted(ends):
        shared = _common(previous, tokens)
        while path[-1].start >= shared and len(path) > 1:
            path.pop()
        if path[-1].end > shared:
            _split(path[-1], shared - path[-1].start)
        if len(tokens) > shared:
            leaf = _Node(tokens[shared:], shared)
            path[-1].children.append(leaf)
            path.append(leaf)
        path[-1].ending = ends[tokens]
        previous = tokens
    _measure(root, inputs)
    return root.children


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _split(node: _Node, length: int) -> None:
    """Keep the first `length` tokens in `node` and move the rest, with all below, to a child."""
    rest = _Node(node.tokens[length:], node.start + length, node.children, node.ending, node.size - length, node.scored_from)
    node.tokens, node.children, node.ending = node.tokens[:length], [rest], []


def _measure(node: _Node, inputs: Sequence[tuple[tuple[int, ...], int]]) -> None:
    """Set `size`, the tokens from here down, and `scored_from`, the first position any sequence below is scored at."""
    for child in node.children:
        _measure(child, inputs)
    node.size = len(node.tokens) + sum(child.size for child in node.children)
    starts = [child.scored_from for child in node.children] + [inputs[i][1] for i in node.ending]
    node.scored_from = min(starts)


def _place(node: _Node, trunk: Trunk | None, rows: list[Row], sizes: Sizes) -> None:
    """Add `node` and all below to the rows over `trunk`, or make its tokens a trunk, or its children branches of their own."""
    shared = min(node.end, node.scored_from) - node.start
    if node.children and shared >= (sizes.long_trunk if node.size <= sizes.row_tokens else MIN_TRUNK):
        inner = Trunk([*node.tokens[:shared]], node.start, trunk)
        if shared < len(node.tokens):
            _split(node, shared)
        rows.append(Row(inner))
        for child in node.children:
            _place(child, inner, rows, sizes)
        rows.append(Row(trunk))
    elif node.size <= sizes.row_tokens or not node.children or node.ending:
        alone = trunk is None and not node.children and node.size >= sizes.long_trunk
        if alone or not rows or rows[-1].trunk is not trunk or len(rows[-1].tokens) + node.size > sizes.row_tokens:
            rows.append(Row(trunk))
        _append(node, rows[-1], [])
        if alone:
            rows.append(Row(trunk))
    else:
        for child in node.children:
            longer = _Node(node.tokens + child.tokens, node.start, child.children, child.ending, child.size + len(node.tokens))
            longer.scored_from = child.scored_from
            _place(longer, trunk, rows, sizes)


def _append(node: _Node, row: Row, above: list[int]) -> None:
    """Write the branch into the row; `above` holds the places of the tokens above it in the same row."""
    number = row.last[-1] + 1 if row.last else 0
    here = range(len(row.tokens), len(row.tokens) + len(node.tokens))
    row.tokens.extend(node.tokens)
    row.positions.extend(range(node.start, node.end))
    row.edge.extend([number] * len(here))
    row.last.extend([number] * len(here))
    places = [*above, *here]
    for i in node.ending:
        row.paths[i] = places
    for child in node.children:
        _append(child, row, places)
    deepest = row.last[-1]
    for place in here:
        row.last[place] = deepest


def end_of(trunk: Trunk | None) -> int:
    """How many tokens there are up to the end of a trunk; 0 without one."""
    return trunk.end if trunk else 0


def trunks_of(row: Row) -> Iterator[Trunk]:
    """The trunks above a row, the innermost first."""
    trunk = row.trunk
    while trunk is not None:
        yield trunk
        trunk = trunk.parent
