"""The layout holds every sequence once, whole, and hides from it whatever is not its own."""

from __future__ import annotations

import random
from itertools import product

from harness.lm.prefix_tree import LONG_TRUNK, Row, Scored, layout, trunks_of


def some_sequences(seed: int) -> list[Scored]:
    """Few-shot preambles of some lengths, questions below, endings below those; some repeat and some are prefixes of others."""
    draw = random.Random(seed)
    made = []
    for _ in range(4):
        preamble = [draw.randrange(9) for _ in range(draw.choice([0, 3, 20, 40]))]
        for _ in range(draw.randrange(1, 6)):
            question = preamble + [draw.randrange(9) for _ in range(draw.randrange(1, 12))]
            for _ in range(draw.randrange(1, 5)):
                made.append(Scored((*question, *[draw.randrange(9) for _ in range(draw.randrange(1, 4))]), len(question)))
    return made + made[:2]


def seen_by(row: Row, place: int) -> list[int]:
    """The tokens a place sees, its own included: the trunks' and then the row's."""
    above = [token for trunk in reversed([*trunks_of(row)]) for token in trunk.tokens]
    own = [row.tokens[k] for k in range(place + 1) if row.edge[k] <= row.edge[place] <= row.last[k]]
    return above + own


def test_a_sequence_sees_its_own_tokens_in_order_and_no_other() -> None:
    """For 50 random trees, three budgets, two trunks: the last place that predicts a token sees exactly the sequence before that token."""
    for seed in range(50):
        sequences = some_sequences(seed)
        for budget, long_trunk in product((1, 30, 1000), (20, LONG_TRUNK)):
            rows = layout(sequences, budget, long_trunk)
            assert sorted(i for row in rows for i in row.paths) == [*range(len(sequences))]
            for row in rows:
                for i, path in row.paths.items():
                    assert seen_by(row, path[-1]) == [*sequences[i].tokens[:-1]]
                    assert row.positions[path[-1]] == len(sequences[i].tokens) - 2
                    assert len(path) >= len(sequences[i].tokens) - sequences[i].start


def test_a_preamble_of_many_rows_is_computed_once() -> None:
    """Twenty questions after 100 tokens they share: one trunk, and no row holds any of it again."""
    preamble = tuple(range(100))
    sequences = [Scored((*preamble, 200 + i, 300 + i, 1), 102) for i in range(20)]
    rows = layout(sequences, 10)
    assert len({id(trunk) for row in rows for trunk in trunks_of(row)}) == 1
    assert sum(len(row.tokens) for row in rows) == 40
    assert all(len(row.tokens) <= 10 for row in rows)


def test_a_long_sequence_that_shares_nothing_is_a_row_of_its_own() -> None:
    """However much a row may hold: its attention needs no mask then. Short ones that share nothing are packed."""
    lengths = [LONG_TRUNK, 5, LONG_TRUNK + 9, 7]
    rows = layout([Scored((first, *range(10, 10 + length)), length) for first, length in enumerate(lengths)], 10_000)
    assert sorted([*row.paths] for row in rows) == [[0], [1], [2], [3]]
    assert all(row.is_chain and row.trunk is None for row in rows)
    packed = layout([Scored((first, *range(10, 10 + length)), length) for first, length in enumerate(lengths[1::2])], 10_000)
    assert [[*row.paths] for row in packed] == [[0, 1]]


def test_long_prompts_share_a_row_where_none_is_to_stand_apart() -> None:
    """Promise: three questions of 300 tokens with two endings each are one row then, and otherwise three trunks with a row each."""
    sequences = [Scored((first, *range(10, 309), ending, 1), 300) for first in range(3) for ending in (400, 500)]
    assert [len(row.paths) for row in layout(sequences, 1000, 1000)] == [6]
    apart = layout(sequences, 1000)
    assert [(len(row.paths), len([*trunks_of(row)])) for row in apart] == [(2, 1)] * 3


def test_endings_of_one_question_share_its_row() -> None:
    """Two options that share the beginning of a sentence, as in Winogrande, cost their differing ends only."""
    (row,) = layout([Scored((1, 2, 3, 4, 5, 6), 5), Scored((1, 2, 3, 7, 5, 6), 5)], 100)
    assert row.trunk is None
    assert row.tokens == [1, 2, 3, 4, 5, 7, 5]
    assert not row.is_chain


def test_the_layout_does_not_depend_on_the_order_of_the_sequences() -> None:
    """Rows hold the same tokens in the same order whatever order the requests come in."""
    sequences = some_sequences(3)
    shuffled = random.Random(0).sample(sequences, len(sequences))
    assert [row.tokens for row in layout(sequences, 30)] == [row.tokens for row in layout(shuffled, 30)]
