"""Resampling through scipy.stats, whose import takes a second: callers import this module where they need it.

Seeds are fixed, so equal input gives equal output. Everything works on clusters: the turns of one MT-Bench question are drawn and
flipped together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

NUM_RESAMPLES, SEED = 9999, 0
BATCH = 1000

Floats = NDArray[np.float64]


def sign_flip_p(totals: Floats) -> float:
    """Two-sided p that cluster totals of differences (G,) are as likely negative as positive: the paired permutation test.

    Exact over all 2^G flips up to 13 clusters (scipy.stats.permutation_test), else 9999 random ones, p >= 0.0002
    (scipy.stats.monte_carlo_test: its sibling draws random flips one observation at a time). With 0/100 scores this is exact McNemar.
    Fisher 1935.
    """
    if not totals.any():
        return 1.0
    if 2 ** len(totals) <= NUM_RESAMPLES:
        return float(stats.permutation_test((totals,), np.sum, permutation_type="samples", vectorized=True, n_resamples=np.inf).pvalue)
    rng = np.random.default_rng(SEED)
    found = stats.monte_carlo_test(
        totals,
        lambda size: np.where(rng.integers(2, size=size, dtype=np.bool_), totals, -totals),
        np.sum,
        vectorized=True,
        n_resamples=NUM_RESAMPLES,
        batch=BATCH,
    )
    return float(found.pvalue)


def bootstrap_interval(totals: Floats, counts: Floats, confidence: float) -> tuple[float, float]:
    """Interval (low, high) of sum(totals) / sum(counts) from clusters (G,) drawn with replacement, bias-corrected and accelerated.

    A single point where all clusters have one mean. Efron 1987, J. Am. Stat. Assoc. 82(397); scipy.stats.bootstrap.
    """
    means = totals / counts
    if np.ptp(means) <= 1e-12 * max(1.0, float(np.abs(means).max())):
        return float(means[0]), float(means[0])
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
