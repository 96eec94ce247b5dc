"""Paired differences with their 95 % intervals, for the tables.

One rule: an interval is for one comparison at a time, and p is that of the interval's own test, so p < 0.05 exactly where the interval
leaves 0 out. Where the sample shows no spread (all differences alike, a single question) nothing can be said: no interval and no p.

A difference is always `a - b` over the questions both answered: the questions are the same, so pairing removes their difficulty from
the noise. Where the score is a mean over subtasks, so is the difference. Units are those of the scores unless a docstring says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from harness.evaluation.statistics import Cluster, Floats, Interval, groups_of, is_binary, mean_stderr, pooled_variance, t_quantile


class Strata(NamedTuple):
    """{id: its subtask}. The mean is that of the subtasks' means, or with `by_size` that of all values; its error adds up theirs."""

    of: Mapping[str, str]
    by_size: bool = False


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


def paired_difference(
    a: Mapping[str, float | None],
    b: Mapping[str, float | None],
    cluster: Cluster | None = None,
    strata: Strata | None = None,
    *,
    is_share: bool = True,
) -> Paired:
    """The mean of `a - b` over the ids scored in both, with its 95 % t interval and the two-sided p of the same t test.

    0/100 values, where they are wrong and right answers (`is_share`): centre and error are those of `bonett_price`. With clusters the
    error is that of `mean_stderr`, with strata the weighted sum of the subtasks' (`_stratified`). Anything else: Student 1908.
    """
    ids = sorted(key for key in a.keys() & b.keys() if a[key] is not None and b[key] is not None)
    left, right = (np.array([values[key] for key in ids], dtype=np.float64) for values in (a, b))
    if not ids:
        return Paired(None, None, None, 0, None, "no common scored question")
    binary = is_share and cluster is None and is_binary(left) and is_binary(right)
    if strata:
        parts = _split(left - right, [strata.of[key] for key in ids])
        return _stratified(parts, by_size=strata.by_size, is_binary=binary)
    if binary:
        return _binary_difference(left - right)
    groups = groups_of(ids, cluster)
    unit = "" if cluster is None else f", {len(set(groups))} clusters"
    return _student(*mean_stderr(left - right, groups), len(ids), f"t interval{unit}")


def t_interval(values: Sequence[float], method: str) -> Paired:
    """Mean of independent differences (one a run, say) with its t interval and test."""
    difference, stderr, dof = mean_stderr(np.array(values, dtype=np.float64), [str(i) for i in range(len(values))])
    return _student(difference, stderr, dof, len(values), method)


def bonett_price(gained: int, lost: int, n: int, added: float = 1.0) -> Interval:
    """Centre and standard error of the difference of two paired proportions, in [-1, 1].

    With p = (gained+1)/(n+2) and q = (lost+1)/(n+2): p - q and sqrt((p + q - (p - q)^2) / (n + 2)); `added` in place of 1 for a part.
    The error does not shrink to 0 where no question changed. Bonett & Price 2012, J. Educ. Behav. Stat. 37(4), recommended by Fagerland,
    Lydersen & Laake 2014, Stat. Med. 33(16); t(n-1) in place of their normal quantile covers 95 % from 8 questions on.
    """
    total = n + 2 * added
    p, q = (gained + added) / total, (lost + added) / total
    return p - q, math.sqrt((p + q - (p - q) ** 2) / total)


def mean_of_differences(tasks: Sequence[Paired]) -> Paired:
    """The unweighted mean of the differences of k independent tasks, with a t interval.

    stderr = sqrt(sum stderr_i^2) / k; degrees of freedom (sum s_i^2)^2 / sum(s_i^4 / dof_i), Satterthwaite 1946. A single task is
    that task's difference.
    """
    if len(tasks) == 1:
        return tasks[0]
    n, method = sum(task.n for task in tasks), f"mean of {len(tasks)} paired differences"
    differences = [task.difference for task in tasks if task.difference is not None]
    errors = [(task.stderr, task.dof) for task in tasks if task.stderr is not None and task.dof is not None]
    if not tasks or len(differences) < len(tasks):
        return Paired(None, None, None, n, None, method)
    difference = math.fsum(differences) / len(tasks)
    if len(errors) < len(tasks):
        return Paired(difference, None, None, n, None, method)
    stderr, dof = _combined([(error / len(tasks), dof) for error, dof in errors])
    return _student(difference, stderr, dof, n, method)


def _combined(parts: Sequence[tuple[float, float]]) -> tuple[float | None, float]:
    """Standard error and degrees of freedom of a sum of independent terms with (standard error, degrees of freedom); None for error 0."""
    variance = math.fsum(stderr**2 for stderr, _ in parts)
    if variance == 0:
        return None, 0.0
    return math.sqrt(variance), variance**2 / math.fsum(stderr**4 / dof for stderr, dof in parts if stderr)


def _binary_difference(changes: Floats) -> Paired:
    n, difference = len(changes), float(changes.mean())
    if n < 2:
        return Paired(difference, None, None, n, None, "one question")
    return _around(difference, *_bonett_price(changes, 1.0), n - 1.0, n, "t interval with Bonett and Price's error")


def _bonett_price(changes: Floats, added: float) -> Interval:
    centre, stderr = bonett_price(int(np.sum(changes > 0)), int(np.sum(changes < 0)), len(changes), added)
    return 100 * centre, 100 * stderr


def _around(difference: float, centre: float, stderr: float | None, dof: float, n: int, method: str) -> Paired:
    """The interval around `centre`, within -100 to 100, as that of `difference`."""
    found = _student(centre, stderr, dof, n, method)
    low, high = (None if limit is None else min(max(limit, -100.0), 100.0) for limit in (found.low, found.high))
    return found._replace(difference=difference, low=low, high=high)


def _stratified(parts: Sequence[Floats], *, by_size: bool, is_binary: bool) -> Paired:
    """The mean of the subtasks' mean differences, weighted alike or by their questions, with a t interval (Satterthwaite 1946).

    0/100 values: Bonett and Price's one gained and one lost answer are shared out by weight. Where a subtask has a single question, whose
    variance is unknown, all take that within the subtasks: `pooled_variance`, with the same weights.
    """
    total = sum(map(len, parts))
    weights = [len(part) / total if by_size else 1 / len(parts) for part in parts]
    difference = math.fsum(weight * float(part.mean()) for weight, part in zip(weights, parts, strict=True))
    method = f"t interval, {len(parts)} subtasks{' by size' if by_size else ''}"
    if any(len(part) < 2 for part in parts):
        variance, dof = pooled_variance(parts)
        spread = math.fsum(w * w / len(part) for w, part in zip(weights, parts, strict=True))
        return _student(difference, None if variance is None else math.sqrt(variance * spread), dof, total, method)
    if not is_binary:
        errors = [(w * math.sqrt(float(part.var(ddof=1)) / len(part)), len(part) - 1.0) for w, part in zip(weights, parts, strict=True)]
        return _student(difference, *_combined(errors), total, method)
    found = [(w, len(part), *_bonett_price(part, w)) for w, part in zip(weights, parts, strict=True)]
    centre = math.fsum(w * middle for w, _, middle, _ in found)
    errors = [(w * stderr * math.sqrt(n / (n - 1)), n - 1.0) for w, n, _, stderr in found]
    return _around(difference, centre, *_combined(errors), total, method)


def _split(values: Floats, names: Sequence[str]) -> list[Floats]:
    index = np.array(names)
    return [values[index == name] for name in dict.fromkeys(names)]


def _student(difference: float, stderr: float | None, dof: float, n: int, method: str) -> Paired:
    """The t interval and the p of the same test; neither where the error is unknown."""
    if stderr is None:
        return Paired(difference, None, None, n, None, method)
    from scipy import special

    reach = t_quantile(dof) * stderr
    p = 2 * float(special.stdtr(dof, -abs(difference) / stderr))
    return Paired(difference, difference - reach, difference + reach, n, p, method, stderr, dof)
