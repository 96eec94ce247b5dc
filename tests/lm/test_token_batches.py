"""How sequences are cut into batches by their tokens."""

from __future__ import annotations

from harness.lm.token_batches import batches


def test_a_batch_holds_what_its_tokens_allow() -> None:
    """Promise: runs in order, the padded tokens of each within the budget, as large as that allows; a sequence beyond it stands alone."""
    lengths = [500, 120, 100, 50, 30, 20, 20, 1, 0]
    runs = batches(lengths, 120)
    assert [place for run in runs for place in run] == list(range(len(lengths)))
    assert [len(run) for run in runs] == [1, 1, 1, 2, 4]
    assert all(len(run) * lengths[run.start] <= 120 or len(run) == 1 for run in runs)
    assert batches([], 10) == []
    assert [len(run) for run in batches([3, 2, 1], float("inf"))] == [3]
    assert [len(run) for run in batches([3, 2, 1], -5.0)] == [1, 1, 1]
