"""The errors and intervals in the tables are right."""

import math

import numpy as np
import pytest
from scipy import stats

from harness.evaluation.resampling import NUM_RESAMPLES, sign_flip_p
from harness.evaluation.statistics import (
    Estimate,
    bonett_price,
    bootstrap,
    estimate,
    holm,
    mcnemar,
    mean_of_differences,
    mean_of_tasks,
    paired_difference,
    question_of,
    spread,
    t_interval,
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


def test_clusters_of_equal_turns_count_once() -> None:
    """Two turns that always agree carry the information of one question."""
    questions = {str(i): float(i % 5) for i in range(20)}
    turns = {f"{question}-{turn}": value for question, value in questions.items() for turn in (1, 2)}
    assert estimate(turns, question_of).stderr == pytest.approx(estimate(questions).stderr)
    assert estimate(turns).stderr < estimate(questions).stderr  # type: ignore[operator]


def test_paired_t_is_scipys() -> None:
    """Differences that are not 0/100 have the paired t test's interval; the permutation p is near its p."""
    draw = np.random.default_rng(0)
    a, b = draw.normal(1.0, 1.0, 30), draw.normal(0.8, 1.0, 30)
    found = paired_difference(numbered(a.tolist()), numbered(b.tolist()))
    theirs = stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.95)
    assert (found.difference, found.low, found.high) == pytest.approx(((a - b).mean(), interval.low, interval.high))
    assert found.p == pytest.approx(theirs.pvalue, abs=0.02)


def test_sign_flips_by_hand() -> None:
    """1, 2, 4, -1 add up to 6. Of the 16 sign choices 8, 6, 6 and their negatives reach that: p = 6/16. Where nothing differs p is 1."""
    assert sign_flip_p(np.array([1.0, 2.0, 4.0, -1.0])) == pytest.approx(6 / 16)
    assert sign_flip_p(np.zeros(3)) == 1.0


def test_sign_flips_of_accuracies_are_mcnemar() -> None:
    """On 0/100 scores the permutation test and exact McNemar are one test: 7 gained, 1 lost."""
    assert sign_flip_p(np.array([100.0] * 7 + [-100.0] + [0.0] * 4)) == pytest.approx(mcnemar(7, 1))


@pytest.mark.parametrize(("gained", "lost"), [(30, 18), (25, 25), (60, 0)])
def test_drawn_sign_flips_are_mcnemar_as_far_as_draws_go(gained: int, lost: int) -> None:
    """Too many questions for all flips: within four standard errors of the exact p, the same each time, never 0, never above 1."""
    totals = np.array([100.0] * gained + [-100.0] * lost + [0.0] * 12)
    p, exact = sign_flip_p(totals), mcnemar(gained, lost)
    assert abs(p - exact) <= 4 * math.sqrt(2 * exact / NUM_RESAMPLES) + 2 / (NUM_RESAMPLES + 1)
    assert p == sign_flip_p(totals)
    assert 2 / (NUM_RESAMPLES + 1) <= p <= 1.0


def test_bootstrap_keeps_the_turns_of_a_question_together() -> None:
    """Equal turns make the interval of their questions; a bootstrap that split them would be narrower."""
    questions = {str(i): float((7 * i) % 11) for i in range(30)}
    turns = {f"{question}-{turn}": value for question, value in questions.items() for turn in (1, 2)}
    assert bootstrap(turns, question_of) == pytest.approx(bootstrap(questions))
    low, high = bootstrap(turns) or (0.0, 0.0)
    wide_low, wide_high = bootstrap(questions) or (0.0, 0.0)
    assert high - low < 0.8 * (wide_high - wide_low)
    assert bootstrap({"1-1": 3.0, "1-2": 4.0}, question_of) is None
    assert bootstrap(dict.fromkeys("abc", 2.0)) == (2.0, 2.0)


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


def test_false_positives_are_as_rare_as_stated() -> None:
    """Without a difference 5 % of permutation tests fall below 0.05, McNemar's fewer, and Holm keeps a family of six below 5 %."""
    draw = np.random.default_rng(5)
    num_runs, flips, changes, families = 400, 0, 0, 0
    for _ in range(num_runs):
        flips += sign_flip_p(draw.normal(0.0, 1.0, 10) * draw.choice([0.5, 3.0], 10)) <= 0.05
        p_values = [mcnemar(gained, 40 - gained) for gained in draw.binomial(40, 0.5, 6).tolist()]
        changes += p_values[0] <= 0.05
        families += any(p is not None and p <= 0.05 for p in holm(p_values))
    assert 0.03 <= flips / num_runs <= 0.07
    assert changes / num_runs <= 0.05
    assert families / num_runs <= 0.05


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
        for cluster in (question_of, None):
            low, high = t_of(a, cluster) or (1.0, 1.0)
            covers = low <= 0.0 <= high
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
