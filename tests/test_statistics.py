"""The errors and intervals in the tables are right."""

import math

import numpy as np
import pytest
from scipy import stats

from harness.statistics import (
    Estimate,
    bonett_price,
    estimate,
    holm,
    mcnemar,
    mean_of_differences,
    mean_of_tasks,
    paired_difference,
    question_of,
    spread,
    t_interval,
)


def numbered(values: list[float | None]) -> dict[str, float | None]:
    return {str(i): value for i, value in enumerate(values)}


def test_mean_leaves_out_and_counts_what_is_unscored() -> None:
    """An unread verdict is never a 0: mean 2, stderr sd/sqrt(n) = 1/sqrt(3)."""
    found = estimate(numbered([1.0, None, 2.0, 3.0]))
    assert found == Estimate(2.0, pytest.approx(1 / math.sqrt(3)), 3, 1)


def test_nothing_scored_is_unknown() -> None:
    """No scored question gives no value, and one gives no error."""
    assert estimate(numbered([None, None])) == Estimate(None, None, 0, 2)
    assert estimate(numbered([5.0])) == Estimate(5.0, None, 1, 0)


def test_clusters_of_equal_turns_count_once() -> None:
    """Two turns that always agree carry the information of one question."""
    questions = {str(i): float(i % 5) for i in range(20)}
    turns = {f"{question}-{turn}": value for question, value in questions.items() for turn in (1, 2)}
    assert estimate(turns, question_of).stderr == pytest.approx(estimate(questions).stderr)
    assert estimate(turns).stderr < estimate(questions).stderr  # type: ignore[operator]


def test_paired_t_is_scipys() -> None:
    """Differences that are not 0/100 go through the paired t test."""
    draw = np.random.default_rng(0)
    a, b = draw.normal(1.0, 1.0, 30), draw.normal(0.8, 1.0, 30)
    found = paired_difference(numbered(a.tolist()), numbered(b.tolist()))
    theirs = stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.95)
    assert (found.difference, found.low, found.high) == pytest.approx(((a - b).mean(), interval.low, interval.high))
    assert found.p == pytest.approx(theirs.pvalue)


def test_only_questions_scored_in_both_are_paired() -> None:
    """Missing and unscored ids on either side are left out."""
    found = paired_difference({"a": 3.0, "b": None, "c": 9.0, "d": 1.0}, {"a": 1.0, "b": 2.0, "d": 0.0, "e": 4.0})
    assert (found.difference, found.n) == (1.5, 2)
    assert paired_difference({"a": None}, {"a": 1.0}).difference is None


def test_accuracies_are_tested_exactly() -> None:
    """7 gained and 1 lost of 20: difference 30 points, p = 2 P(Bin(8, 1/2) <= 1) = 18/256."""
    a = [100.0] * 7 + [0.0] + [100.0] * 6 + [0.0] * 6
    b = [0.0] * 7 + [100.0] + [100.0] * 6 + [0.0] * 6
    found = paired_difference(numbered(a), numbered(b))
    assert found.difference == pytest.approx(30.0)
    assert found.p == pytest.approx(18 / 256)
    assert mcnemar(7, 1) == pytest.approx(stats.binomtest(1, 8, 0.5).pvalue)


def test_interval_of_accuracies_has_width_without_a_change() -> None:
    """Where no answer changed the interval still says how little the questions can tell."""
    found = paired_difference(numbered([100.0, 0.0, 0.0]), numbered([100.0, 0.0, 0.0]))
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0 < found.high
    assert (found.difference, found.p) == (0.0, 1.0)


def test_bonett_price_worked_by_hand() -> None:
    """gained 8, lost 2, n 48: p = 9/50, q = 3/50, se = sqrt((0.24 - 0.0144)/50)."""
    low, high, stderr = bonett_price(8, 2, 48)
    assert stderr == pytest.approx(math.sqrt(0.2256 / 50))
    assert (low, high) == pytest.approx((0.12 - 1.959964 * stderr, 0.12 + 1.959964 * stderr), abs=1e-6)


@pytest.mark.parametrize(("num_questions", "shift", "at_most"), [(25, 0.0, 1.0), (200, 0.1, 0.97)])
def test_intervals_of_accuracies_cover(num_questions: int, shift: float, at_most: float) -> None:
    """About 95 % of the intervals hold the true difference; with few changed answers more, never fewer (seeded simulation)."""
    draw = np.random.default_rng(1)
    covered = 0
    num_runs = 1000
    for _ in range(num_runs):
        uniform = draw.random(num_questions)
        flipped = draw.random(num_questions) < 0.2
        b = np.where(flipped, draw.random(num_questions), uniform) < 0.5
        a = uniform < 0.5 + shift
        found = paired_difference(numbered((100.0 * a).tolist()), numbered((100.0 * b).tolist()))
        covered += found.low <= 100 * shift <= found.high  # type: ignore[operator]
    assert 0.935 <= covered / num_runs <= at_most


def test_intervals_of_clustered_points_cover() -> None:
    """Turns that share their question's luck do not make the interval too narrow; ignoring the clusters does."""
    draw = np.random.default_rng(2)
    clustered = ignored = 0
    num_runs = 500
    for _ in range(num_runs):
        luck = np.repeat(draw.normal(0.0, 1.0, 40), 2) + draw.normal(0.0, 0.3, 80)
        a = {f"{i // 2}-{i % 2 + 1}": float(value) for i, value in enumerate(luck)}
        zero = dict.fromkeys(a, 0.0)
        for cluster in (question_of, None):
            found = paired_difference(a, zero, cluster)
            covers = found.low <= 0.0 <= found.high  # type: ignore[operator]
            clustered += covers and cluster is not None
            ignored += covers and cluster is None
    assert 0.93 <= clustered / num_runs <= 0.97
    assert ignored / num_runs < 0.90


def test_equal_differences_keep_a_p() -> None:
    """Every one of 5 questions better by the same amount: all signs agree with probability 2^-4, and p is never 0."""
    found = paired_difference(numbered([0.3, 0.5, 0.7, 0.9, 1.1]), numbered([0.1, 0.3, 0.5, 0.7, 0.9]))
    assert found.p == 2.0**-4
    assert found.low == found.high == pytest.approx(0.2)


def test_holm_worked_by_hand() -> None:
    """0.01 x 4, 0.02 x 3, 0.03 x 2 (kept monotone), 0.5 x 1; a missing test is not counted."""
    assert holm([0.5, 0.01, None, 0.03, 0.02]) == pytest.approx([0.5, 0.04, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_mean_of_tasks_adds_independent_errors() -> None:
    """stderr of a mean of two: sqrt(3^2 + 4^2) / 2."""
    assert mean_of_tasks([Estimate(10.0, 3.0, 5), Estimate(20.0, 4.0, 6, 1)]) == Estimate(15.0, 2.5, 11, 1)


def test_mean_of_tasks_is_never_partial() -> None:
    """One unknown task makes the mean unknown, and one unknown error the error."""
    assert mean_of_tasks([Estimate(10.0, 3.0, 5), Estimate(None, None, 0, 4)]).value is None
    assert mean_of_tasks([Estimate(10.0, 3.0, 5), Estimate(20.0, None, 1)]).stderr is None


def test_mean_of_differences_is_narrower_than_its_parts() -> None:
    """Two tasks of equal error: stderr falls by sqrt(2), degrees of freedom add up (Satterthwaite)."""
    draw = np.random.default_rng(3)
    values = draw.normal(0.5, 1.0, 20)
    one = t_interval(values.tolist(), "t")
    both = mean_of_differences([one, one])
    assert both.difference == pytest.approx(one.difference)
    assert both.stderr == pytest.approx(one.stderr / math.sqrt(2))  # type: ignore[operator]
    assert both.dof == pytest.approx(38.0)


def test_spread_of_one_run_is_unknown() -> None:
    """A single seed has a mean and no deviation."""
    assert spread([2.0]) == (2.0, None)
    assert spread([1.0, 3.0]) == (2.0, pytest.approx(math.sqrt(2)))
