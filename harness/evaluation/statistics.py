"""Means, paired comparisons and corrections for the tables. What is drawn at random has a fixed seed: equal input gives equal output.

A difference is always `a - b` over the questions both answered: the questions are the same, so pairing removes their
difficulty from the noise. Scores of one question that depend on each other (the two turns of an MT-Bench question) are
one cluster. Units are those of the scores (percent, points, nats) unless a docstring says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95

Cluster = Callable[[str], str]
Floats = NDArray[np.float64]


class Estimate(NamedTuple):
    """A mean with its standard error. `n` counts the scored, `n_unscored` what could not be read; None is unknown."""

    value: float | None
    stderr: float | None
    n: int
    n_unscored: int = 0


class Paired(NamedTuple):
    """`a - b` with its 95 % interval. `n` pairs, `p` two-sided; `stderr` and `dof` belong to the difference."""

    difference: float | None
    low: float | None
    high: float | None
    n: int
    p: float | None
    method: str
    stderr: float | None = None
    dof: float | None = None


def question_of(value_id: str) -> str:
    """The cluster of an MT-Bench value: '81-2' (question 81, turn 2) belongs to '81'."""
    return value_id.rpartition("-")[0] or value_id


def estimate(values: Mapping[str, float | None], cluster: Cluster | None = None) -> Estimate:
    """Mean and standard error of {id: value or None}; unscored values are left out and counted.

    stderr = sd / sqrt(n) with the n-1 variance; with clusters the sandwich form of `_mean_stderr`. None below two clusters.
    """
    scored = {key: value for key, value in values.items() if value is not None}
    if not scored:
        return Estimate(None, None, 0, len(values))
    value, stderr, _ = _mean_stderr(np.array(list(scored.values())), _groups(list(scored), cluster))
    return Estimate(value, stderr, len(scored), len(values) - len(scored))


def paired_difference(a: Mapping[str, float | None], b: Mapping[str, float | None], cluster: Cluster | None = None) -> Paired:
    """The mean of `a - b` over the ids scored in both, its 95 % interval and a two-sided p.

    0/100 values without clusters: the interval of `bonett_price` and the exact `mcnemar` p. Anything else: the t interval
    mean +- t(0.975, G-1) x stderr with G clusters (Student 1908; clusters: `_mean_stderr`) and the p of the permutation test that
    flips the sign of each cluster's difference, which is what exact McNemar is on 0/100 values.
    """
    from harness.evaluation.resampling import sign_flip_p

    ids = sorted(key for key in a.keys() & b.keys() if a[key] is not None and b[key] is not None)
    left, right = (np.array([values[key] for key in ids], dtype=np.float64) for values in (a, b))
    if not ids:
        return Paired(None, None, None, 0, None, "no common scored question")
    if cluster is None and _is_binary(left) and _is_binary(right):
        return _binary_difference(left, right)
    groups = _groups(ids, cluster)
    unit = "" if cluster is None else f", {len(set(groups))} clusters"
    difference, stderr, dof = _mean_stderr(left - right, groups)
    found = _student(difference, stderr, dof, len(ids), f"t interval, sign-flip p{unit}")
    return found if stderr is None else found._replace(p=sign_flip_p(_totals(left - right, groups)[0]))


def t_of(values: Mapping[str, float | None], cluster: Cluster | None = None) -> tuple[float, float] | None:
    """The 95 % t interval of the mean that `estimate` gives; None where it has no error."""
    keys = [key for key, value in values.items() if value is not None]
    if not keys:
        return None
    scored = np.array([values[key] for key in keys], dtype=np.float64)
    mean, stderr, dof = _mean_stderr(scored, _groups(keys, cluster))
    found = _student(mean, stderr, dof, len(keys), "t")
    return None if found.low is None or found.high is None else (found.low, found.high)


def bootstrap(values: Mapping[str, float | None], cluster: Cluster | None = None) -> tuple[float, float] | None:
    """The 95 % interval of the same mean from clusters drawn with replacement (BCa); None below two clusters."""
    from harness.evaluation.resampling import bootstrap_interval

    keys = [key for key, value in values.items() if value is not None]
    totals, counts = _totals(np.array([values[key] for key in keys], dtype=np.float64), _groups(keys, cluster))
    return bootstrap_interval(totals, counts, CONFIDENCE) if len(totals) > 1 else None


def t_interval(values: Sequence[float], method: str) -> Paired:
    """Mean of independent differences (one a run, say) with its t interval and test."""
    difference, stderr, dof = _mean_stderr(np.array(values, dtype=np.float64), [str(i) for i in range(len(values))])
    return _student(difference, stderr, dof, len(values), method)


def bonett_price(gained: int, lost: int, n: int) -> tuple[float, float, float]:
    """95 % interval (low, high) and standard error of the difference of two paired proportions, all in [-1, 1].

    With p = (gained+1)/(n+2) and q = (lost+1)/(n+2): p - q +- z sqrt((p + q - (p - q)^2) / (n + 2)).
    Unlike the t interval it does not shrink to a point where no question changed; with few changes it errs to the wide side.
    Bonett & Price 2012, J. Educ. Behav. Stat. 37(4); recommended by Fagerland, Lydersen & Laake 2014, Stat. Med. 33(16).
    """
    p, q = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    stderr = math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    reach = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * stderr
    return max(p - q - reach, -1.0), min(p - q + reach, 1.0), stderr


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p that gains and losses are equally likely: McNemar 1947, in its exact form. 1 where nothing changed."""
    from scipy import stats  # takes a second, which `harness --help` need not wait

    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def mean_of_tasks(tasks: Sequence[Estimate]) -> Estimate:
    """The unweighted mean over tasks with independent questions: stderr = sqrt(sum stderr_i^2) / k. One unknown makes it unknown."""
    values = [task.value for task in tasks if task.value is not None]
    errors = [task.stderr for task in tasks if task.stderr is not None]
    n, n_unscored = sum(task.n for task in tasks), sum(task.n_unscored for task in tasks)
    if not tasks or len(values) < len(tasks):
        return Estimate(None, None, n, n_unscored)
    stderr = math.sqrt(math.fsum(e * e for e in errors)) / len(tasks) if len(errors) == len(tasks) else None
    return Estimate(math.fsum(values) / len(tasks), stderr, n, n_unscored)


def mean_of_differences(tasks: Sequence[Paired]) -> Paired:
    """The unweighted mean of the differences of k independent tasks, with a t interval.

    stderr = sqrt(sum stderr_i^2) / k; degrees of freedom (sum s_i^2)^2 / sum(s_i^4 / dof_i), Satterthwaite 1946.
    """
    n, method = sum(task.n for task in tasks), f"mean of {len(tasks)} paired differences"
    differences = [task.difference for task in tasks if task.difference is not None]
    errors = [(task.stderr, task.dof) for task in tasks if task.stderr is not None and task.dof is not None]
    if not tasks or len(differences) < len(tasks):
        return Paired(None, None, None, n, None, method)
    difference = math.fsum(differences) / len(tasks)
    if len(errors) < len(tasks):
        return Paired(difference, None, None, n, None, method)
    variance = math.fsum(stderr**2 for stderr, _ in errors)
    fourth = math.fsum(stderr**4 / dof for stderr, dof in errors)
    dof = variance**2 / fourth if fourth else math.fsum(dof for _, dof in errors)
    return _student(difference, math.sqrt(variance) / len(tasks), dof, n, method)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for their number, in place: sorted, the i-th smallest of m is times (m - i), made monotone, capped at 1.

    Controls the family-wise error under any dependence. Holm 1979, Scand. J. Stat. 6(2). None stays None and does not count.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        corrected[place] = largest
    return corrected


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n-1) of runs; the deviation of a single run is unknown."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _binary_difference(left: Floats, right: Floats) -> Paired:
    n = len(left)
    gained, lost = int(np.sum(left > right)), int(np.sum(left < right))
    low, high, stderr = bonett_price(gained, lost, n)
    return Paired(
        difference=100 * (gained - lost) / n,
        low=100 * low,
        high=100 * high,
        n=n,
        p=mcnemar(gained, lost),
        method="Bonett-Price interval, exact McNemar p",
        stderr=100 * stderr,
        dof=float(max(n - 1, 1)),
    )


def _student(difference: float, stderr: float | None, dof: float, n: int, method: str) -> Paired:
    """The t interval and test. Where all clusters differ by the same amount, p is that of all signs agreeing, 2^(1-G)."""
    if stderr is None:
        return Paired(difference, None, None, n, None, method)
    if stderr == 0:
        p = 1.0 if difference == 0 else 2.0**-dof
        return Paired(difference, difference, difference, n, p, method, stderr, dof)
    from scipy import special

    reach = float(special.stdtrit(dof, (1 + CONFIDENCE) / 2)) * stderr
    p = 2 * float(special.stdtr(dof, -abs(difference) / stderr))
    return Paired(difference, difference - reach, difference + reach, n, p, method, stderr, dof)


def _mean_stderr(values: Floats, groups: Sequence[str]) -> tuple[float, float | None, float]:
    """Mean (N,) -> (mean, standard error, degrees of freedom G-1) with G clusters.

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
        squares = 0.0  # equal values: what is left is rounding
    return mean, math.sqrt(num_groups / (num_groups - 1) * squares) / len(values), num_groups - 1.0


def _totals(values: Floats, groups: Sequence[str]) -> tuple[Floats, Floats]:
    """Values (N,) -> each cluster's sum and size, both (G,), in order of first appearance."""
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    index = np.array([places[group] for group in groups], dtype=np.intp)
    totals, counts = np.zeros(len(places)), np.zeros(len(places))
    np.add.at(totals, index, values)
    np.add.at(counts, index, 1.0)
    return totals, counts


def _groups(ids: Sequence[str], cluster: Cluster | None) -> list[str]:
    return [cluster(key) if cluster else key for key in ids]


def _is_binary(values: Floats) -> bool:
    return bool(np.isin(values, (0.0, 100.0)).all())
