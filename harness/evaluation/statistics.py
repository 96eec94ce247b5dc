"""Means with their errors and 95 % intervals, for the tables; paired.py has the differences.

Where the sample shows no spread (all values alike, a single question) its error is unknown: no error and no interval, except that a share
of right answers has its exact interval. Scores of one question that depend on each other (the two turns of an MT-Bench question) are one
cluster. Units are those of the scores (percent, points, nats) unless a docstring says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95

Cluster = Callable[[str], str]
Floats = NDArray[np.float64]
Interval = tuple[float, float]


class Estimate(NamedTuple):
    """A mean with its standard error and interval. `n` counts the scored, `n_unscored` what could not be read; None is unknown."""

    value: float | None
    stderr: float | None
    n: int
    n_unscored: int = 0
    low: float | None = None
    high: float | None = None


def question_of(value_id: str) -> str:
    """The cluster of an MT-Bench value: '81-2' (question 81, turn 2) belongs to '81'."""
    return value_id.rpartition("-")[0] or value_id


def estimate(values: Mapping[str, float | None], cluster: Cluster | None = None) -> Estimate:
    """Mean and standard error of {id: value or None}; unscored values are left out and counted.

    stderr = sd / sqrt(n) with the n-1 variance; with clusters the sandwich form of `mean_stderr`. None where no two clusters differ.
    """
    scored = {key: value for key, value in values.items() if value is not None}
    if not scored:
        return Estimate(None, None, 0, len(values))
    value, stderr, _ = mean_stderr(np.array(list(scored.values())), groups_of(list(scored), cluster))
    return Estimate(value, stderr, len(scored), len(values) - len(scored))


def t_of(values: Mapping[str, float | None], cluster: Cluster | None = None) -> Interval | None:
    """The 95 % t interval of the mean that `estimate` gives; None where it has no error."""
    keys = [key for key, value in values.items() if value is not None]
    if not keys:
        return None
    mean, stderr, dof = mean_stderr(np.array([values[key] for key in keys], dtype=np.float64), groups_of(keys, cluster))
    if stderr is None:
        return None
    reach = t_quantile(dof) * stderr
    return mean - reach, mean + reach


def t_quantile(dof: float) -> float:
    """How many standard errors a 95 % interval reaches to either side."""
    from scipy import special  # takes half a second, which `harness --help` need not wait

    return float(special.stdtrit(dof, (1 + CONFIDENCE) / 2))


def mean_interval(
    values: Mapping[str, float | None], value: float | None, stderr: float | None, cluster: Cluster | None = None, *, is_share: bool = True
) -> Interval | None:
    """The 95 % interval of `value`, a mean of `values` or of their subtasks' means: exact for a share of right answers, else a t interval.

    Without `is_share` values of 0 and 100 are no wrong and right answers: nats that are all 0 have no interval. A score of no question's
    own values (a metric of all questions together) has none.
    """
    known = np.array([one for one in values.values() if one is not None], dtype=np.float64)
    if value is None or not len(known):
        return None
    n, is_plain = float(len(known)), math.isclose(value, float(known.mean()), abs_tol=1e-9)
    if cluster is not None or not is_share or not is_binary(known):
        return t_of(values, cluster) if is_plain or cluster else _around(value, stderr, n - 1)
    low, high = exact_proportion(value / 100, n if is_plain or not stderr else min(n, value * (100 - value) / stderr**2))
    return 100 * low, 100 * high


def _around(value: float, stderr: float | None, dof: float) -> Interval | None:
    """The t interval of a mean of subtasks' means, which knows its own error alone."""
    if not stderr:
        return None
    reach = t_quantile(dof) * stderr
    return value - reach, value + reach


def exact_proportion(share: float, n: float) -> Interval:
    """95 % interval of a proportion in [0, 1] seen in `n` answers: Clopper & Pearson 1934, whose coverage is never below 95 %.

    For a weighted share `n` is the effective number of answers, share (1 - share) / stderr^2: Korn & Graubard 1998, Surv. Methodol. 24.
    """
    from scipy import special

    right, tail = share * n, (1 - CONFIDENCE) / 2
    low = float(special.betaincinv(right, n - right + 1, tail)) if share > 0 else 0.0
    high = float(special.betaincinv(right + 1, n - right, 1 - tail)) if share < 1 else 1.0
    return low, high


def bootstrap(values: Mapping[str, float | None], cluster: Cluster | None = None) -> Interval | None:
    """The 95 % interval of the same mean from clusters drawn with replacement (BCa); None where no two clusters differ."""
    from harness.evaluation.resampling import bootstrap_interval

    keys = [key for key, value in values.items() if value is not None]
    return bootstrap_interval(np.array([values[key] for key in keys], dtype=np.float64), groups_of(keys, cluster), CONFIDENCE)


def mean_of_tasks(tasks: Sequence[Estimate]) -> Estimate:
    """The unweighted mean over tasks with independent questions: stderr = sqrt(sum stderr_i^2) / k. One unknown makes it unknown.

    The interval adds up the distances of the tasks' own limits in the same way: Zou & Donner 2008, Stat. Med. 27(10).
    """
    k = len(tasks)
    values, n, n_unscored = [task.value for task in tasks], sum(task.n for task in tasks), sum(task.n_unscored for task in tasks)
    known = [value for value in values if value is not None]
    if not tasks or len(known) < k:
        return Estimate(None, None, n, n_unscored)
    value = math.fsum(known) / k
    stderr = _root_of_squares([task.stderr for task in tasks])
    below, above = (_root_of_squares(reach) for reach in zip(*map(_reaches, tasks), strict=True))
    return Estimate(
        value,
        None if stderr is None else stderr / k,
        n,
        n_unscored,
        None if below is None else value - below / k,
        None if above is None else value + above / k,
    )


def _reaches(task: Estimate) -> tuple[float | None, float | None]:
    """How far the interval reaches below and above the value."""
    if task.value is None or task.low is None or task.high is None:
        return None, None
    return task.value - task.low, task.high - task.value


def _root_of_squares(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.sqrt(math.fsum(value * value for value in known)) if len(known) == len(values) else None


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n-1) of runs; the deviation of a single run is unknown."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def mean_stderr(values: Floats, groups: Sequence[str]) -> tuple[float, float | None, float]:
    """Mean (N,) -> (mean, standard error, degrees of freedom G-1) with G clusters; the error is None where no two clusters differ.

    stderr = sqrt(G/(G-1) x sum_g (sum_{i in g} (x_i - mean))^2) / N: Liang & Zeger 1986; sd/sqrt(N) where each value is its own cluster.
    """
    mean = math.fsum(values.tolist()) / len(values)
    totals: dict[str, float] = {}
    for group, value in zip(groups, (values - mean).tolist(), strict=True):
        totals[group] = totals.get(group, 0.0) + value
    num_groups = len(totals)
    if num_groups < 2:
        return mean, None, 0.0
    squares = math.fsum(total * total for total in totals.values())
    if math.sqrt(squares) <= 1e-12 * max(1.0, float(np.abs(values).max())) * len(values):
        return mean, None, 0.0  # equal values: what is left is rounding
    return mean, math.sqrt(num_groups / (num_groups - 1) * squares) / len(values), num_groups - 1.0


def pooled_variance(strata: Sequence[Floats]) -> tuple[float | None, float]:
    """(variance within the strata, its degrees of freedom): the squares about their means over sum(n_i - 1).

    Strata of a single value each are one sample, whose variance holds what they differ in. None for less than two values, and where no
    value differs from its stratum's others.
    """
    strata = strata if any(len(values) > 1 for values in strata) else [np.concatenate(strata)] if strata else []
    dof = float(sum(len(values) - 1 for values in strata))
    squares = math.fsum(math.fsum(((values - values.mean()) ** 2).tolist()) for values in strata)
    total, largest = sum(map(len, strata)), max((float(np.abs(values).max()) for values in strata), default=0.0)
    if dof < 1 or math.sqrt(squares) <= 1e-12 * max(1.0, largest) * total:
        return None, 0.0  # equal values: what is left is rounding
    return squares / dof, dof


def groups_of(ids: Sequence[str], cluster: Cluster | None) -> list[str]:
    return [cluster(key) if cluster else key for key in ids]


def is_binary(values: Floats) -> bool:
    return bool(np.isin(values, (0.0, 100.0)).all())
