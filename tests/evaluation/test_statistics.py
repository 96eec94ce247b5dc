"""The errors and intervals in the tables are right."""

import math

import numpy as np
import pytest
from scipy import stats

from harness.evaluation.statistics import (
    Estimate,
    bootstrap,
    estimate,
    exact_proportion,
    mean_interval,
    mean_of_tasks,
    question_of,
    spread,
    t_of,
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
    assert mean_interval({}, 62.0, None) is mean_interval(numbered([None, None]), 62.0, 1.0) is None


def test_equal_values_have_no_error() -> None:
    """Five ratings of 7 do not show that every answer is a 7: no error and no interval."""
    assert estimate(numbered([7.0] * 5)) == Estimate(7.0, None, 5, 0)
    assert t_of(numbered([7.0] * 5)) is None
    assert mean_interval(numbered([7.0] * 5), 7.0, None) is None


def test_none_right_of_eight_may_be_a_third() -> None:
    """0 of 8: 1 - 0.025^(1/8) = 36.94 %; 8 of 8 mirrors it; 5 of 20 is scipy's exact interval."""
    assert mean_interval(numbered([0.0] * 8), 0.0, 0.0) == (0.0, pytest.approx(36.94, abs=0.005))
    assert mean_interval(numbered([100.0] * 8), 100.0, 0.0) == (pytest.approx(63.06, abs=0.005), 100.0)
    theirs = stats.binomtest(5, 20).proportion_ci(method="exact")
    assert exact_proportion(0.25, 20) == pytest.approx((theirs.low, theirs.high))


def test_a_weighted_share_counts_for_as_many_answers_as_its_error_says() -> None:
    """A share of 50 % with an error of 10 points says as much as 25 answers; it never says more than its own number."""
    values = numbered([100.0] * 30 + [0.0] * 20)
    low, high = exact_proportion(0.5, 25)
    assert mean_interval(values, 50.0, 10.0) == pytest.approx((100 * low, 100 * high))
    assert mean_interval(values, 50.0, 1.0) == pytest.approx(tuple(100 * limit for limit in exact_proportion(0.5, 50)))


@pytest.mark.parametrize("n", [8, 16, 32, 200])
def test_intervals_of_proportions_cover_at_every_rate(n: int) -> None:
    """Over all outcomes with their probabilities, the true rate is held in at least 95 %, at 0.02 to 0.98, and never in a point."""
    intervals = [exact_proportion(right / n, n) for right in range(n + 1)]
    assert all(low < high for low, high in intervals)
    for rate in np.arange(0.02, 0.99, 0.02):
        likely = stats.binom.pmf(np.arange(n + 1), n, rate)
        assert sum(p for p, (low, high) in zip(likely, intervals, strict=True) if low <= rate <= high) >= 0.95


def test_the_interval_of_a_mean_of_subtasks_lies_around_it() -> None:
    """Subtasks of 1 and 9 questions weighted alike: 50 with an error of 5, not the questions' own mean of 18; without an error, none."""
    values = numbered([90.0, *[10.0 + i % 3 - 1 for i in range(9)]])
    assert mean_interval(values, 50.0, 5.0) == pytest.approx((50 - 5 * stats.t.ppf(0.975, 9), 50 + 5 * stats.t.ppf(0.975, 9)))
    assert mean_interval(values, 50.0, None) is None


def test_clusters_of_equal_turns_count_once() -> None:
    """Two turns that always agree carry the information of one question."""
    questions = {str(i): float(i % 5) for i in range(20)}
    turns = {f"{question}-{turn}": value for question, value in questions.items() for turn in (1, 2)}
    assert estimate(turns, question_of).stderr == pytest.approx(estimate(questions).stderr)
    assert estimate(turns).stderr < estimate(questions).stderr  # type: ignore[operator]


def test_bootstrap_keeps_the_turns_of_a_question_together() -> None:
    """Equal turns make the interval of their questions; a bootstrap that split them would be narrower."""
    questions = {str(i): float((7 * i) % 11) for i in range(30)}
    turns = {f"{question}-{turn}": value for question, value in questions.items() for turn in (1, 2)}
    assert bootstrap(turns, question_of) == pytest.approx(bootstrap(questions))
    low, high = bootstrap(turns) or (0.0, 0.0)
    wide_low, wide_high = bootstrap(questions) or (0.0, 0.0)
    assert high - low < 0.8 * (wide_high - wide_low)
    assert bootstrap({"1-1": 3.0, "1-2": 4.0}, question_of) is None
    assert bootstrap(dict.fromkeys("abc", 2.0)) is None


def test_both_intervals_of_a_mean_cover() -> None:
    """Of MT-Bench-like ratings (skewed, 80 questions of two turns) t and bootstrap intervals hold the true mean in 93 to 97 %."""
    draw = np.random.default_rng(4)
    num_runs, held = 300, {"t": 0, "bootstrap": 0}
    for _ in range(num_runs):
        question = np.repeat(draw.beta(4.0, 2.0, 80), 2)
        ratings = 1 + 9 * (0.7 * question + 0.3 * draw.beta(4.0, 2.0, 160))
        values = {f"{i // 2}-{i % 2 + 1}": float(value) for i, value in enumerate(ratings)}
        for name, interval in (("t", t_of(values, question_of)), ("bootstrap", bootstrap(values, question_of))):
            low, high = interval or (0.0, 0.0)
            held[name] += low <= 1 + 9 * 4 / 6 <= high
    assert {name: 0.93 <= count / num_runs <= 0.97 for name, count in held.items()} == {"t": True, "bootstrap": True}


def test_intervals_of_clustered_points_cover() -> None:
    """Turns that share their question's luck do not make the interval too narrow; ignoring the clusters does."""
    draw = np.random.default_rng(2)
    clustered = ignored = 0
    num_runs = 500
    for _ in range(num_runs):
        luck = np.repeat(draw.normal(0.0, 1.0, 40), 2) + draw.normal(0.0, 0.3, 80)
        a = {f"{i // 2}-{i % 2 + 1}": float(value) for i, value in enumerate(luck)}
        for cluster in (question_of, None):
            low, high = t_of(a, cluster) or (1.0, 1.0)
            covers = low <= 0.0 <= high
            clustered += covers and cluster is not None
            ignored += covers and cluster is None
    assert 0.93 <= clustered / num_runs <= 0.97
    assert ignored / num_runs < 0.90


def test_mean_of_tasks_adds_independent_errors() -> None:
    """stderr of a mean of two: sqrt(3^2 + 4^2) / 2."""
    assert mean_of_tasks([Estimate(10.0, 3.0, 5), Estimate(20.0, 4.0, 6, 1)]) == Estimate(15.0, 2.5, 11, 1)


def test_interval_of_a_mean_of_tasks_adds_the_tasks_own() -> None:
    """Limits 3 and 4 below the values, 6 and 8 above: 5 / 2 below the mean and 10 / 2 above it; one without interval leaves none."""
    one, other = Estimate(10.0, 1.0, 5, 0, 7.0, 16.0), Estimate(20.0, None, 5, 0, 16.0, 28.0)
    assert mean_of_tasks([one, other]) == Estimate(15.0, None, 10, 0, 12.5, 20.0)
    assert mean_of_tasks([one, Estimate(3.0, None, 5)]).low is None


def test_mean_of_tasks_is_never_partial() -> None:
    """One unknown task makes the mean unknown, and one unknown error the error."""
    assert mean_of_tasks([Estimate(10.0, 3.0, 5), Estimate(None, None, 0, 4)]).value is None
    assert mean_of_tasks([Estimate(10.0, 3.0, 5), Estimate(20.0, None, 1)]).stderr is None


def test_spread_of_one_run_is_unknown() -> None:
    """A single seed has a mean and no deviation."""
    assert spread([2.0]) == (2.0, None)
    assert spread([1.0, 3.0]) == (2.0, pytest.approx(math.sqrt(2)))
