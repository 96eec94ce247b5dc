"""Batches that hold as many sequences as their tokens allow, the longest first: too little memory shows in the first, not in the last."""

from __future__ import annotations

from collections.abc import Sequence


def batches(lengths: Sequence[int], most_tokens: float) -> list[range]:
    """`lengths`, in descending order, as runs of places: a run's first length times its size is at most `most_tokens`, its size at least 1.

    Example: lengths (50, 30, 20, 20) under 60 tokens are the runs (0), (1, 2), (3).
    """
    runs: list[range] = []
    start = 0
    while start < len(lengths):
        size = max(int(min(most_tokens / max(lengths[start], 1), len(lengths) - start)), 1)
        runs.append(range(start, start + size))
        start += size
    return runs
