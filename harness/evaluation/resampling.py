"""Resampling through scipy.stats, whose import takes a second: callers import this module where they need it.

Seeds are fixed, so equal input gives equal output. Everything works on clusters: the turns of one MT-Bench question are drawn together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

NUM_RESAMPLES, SEED = 9999, 0
BATCH = 1000

Floats = NDArray[np.float64]


def bootstrap_interval(values: Floats, groups: Sequence[str], confidence: float) -> tuple[float, float] | None:
    """Interval (low, high) of the mean of values (N,) from their clusters drawn with replacement, bias-corrected and accelerated.

    None where all clusters have one mean. Efron 1987, J. Am. Stat. Assoc. 82(397); scipy.stats.bootstrap.
    """
    totals, counts = _totals(values, groups)
    means = totals / counts
    if not len(means) or np.ptp(means) <= 1e-12 * max(1.0, float(np.abs(means).max())):
        return None
    found = stats.bootstrap(
        (totals, counts),
        lambda sums, sizes, axis: np.sum(sums, axis=axis) / np.sum(sizes, axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=NUM_RESAMPLES,
        batch=BATCH,
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(SEED),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _totals(values: Floats, groups: Sequence[str]) -> tuple[Floats, Floats]:
    """Values (N,) -> each cluster's sum and size, both (G,), in order of first appearance."""
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    index = np.array([places[group] for group in groups], dtype=np.intp)
    totals, counts = np.zeros(len(places)), np.zeros(len(places))
    np.add.at(totals, index, values)
    np.add.at(counts, index, 1.0)
    return totals, counts
