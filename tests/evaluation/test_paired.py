"""Differences of the same questions: what they say, and that they say nothing where the sample cannot."""

import math

import numpy as np
import pytest
from scipy import stats

from harness.evaluation.paired import Strata, bonett_price, mean_of_differences, paired_difference, t_interval
from harness.evaluation.statistics import question_of


def numbered(values: list[float]) -> dict[str, float | None]:
    return {str(i): value for i, value in enumerate(values)}


def test_paired_t_is_scipys() -> None:
    """Differences that are not 0/100 have the paired t test's interval and p."""
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


def test_accuracies_by_hand() -> None:
    """7 gained and 1 lost of 20: 30 points; with 8 and 2 of 22, centre 6/22 and error sqrt((10/22 - (6/22)^2) / 22), t(19) = 2.093."""
    a = [100.0] * 7 + [0.0] + [100.0] * 6 + [0.0] * 6
    b = [0.0] * 7 + [100.0] + [100.0] * 6 + [0.0] * 6
    found = paired_difference(numbered(a), numbered(b))
    assert found.difference == pytest.approx(30.0)
    centre, error = 6 / 22, math.sqrt((10 / 22 - (6 / 22) ** 2) / 22)
    assert (found.low, found.high) == pytest.approx((100 * (centre - 2.093 * error), 100 * (centre + 2.093 * error)), abs=0.01)
    assert found.p == pytest.approx(2 * stats.t.sf(centre / error, 19))


def test_interval_of_accuracies_has_width_without_a_change() -> None:
    """Where no answer changed the interval still says how little the questions can tell; one question tells nothing."""
    found = paired_difference(numbered([100.0, 0.0, 0.0]), numbered([100.0, 0.0, 0.0]))
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0 < found.high
    assert (found.difference, found.p) == (0.0, 1.0)
    assert paired_difference(numbered([100.0]), numbered([0.0]))[:5] == (100.0, None, None, 1, None)


def test_bonett_price_worked_by_hand() -> None:
    """gained 8, lost 2, n 48: p = 9/50, q = 3/50, se = sqrt((0.24 - 0.0144)/50)."""
    assert bonett_price(8, 2, 48) == pytest.approx((0.12, math.sqrt(0.2256 / 50)))


@pytest.mark.parametrize(("differences", "cluster"), [([1.0, 1.0], question_of), ([0.5, 0.5, 0.5], None), ([0.1 + 0.2, 0.3], None)])
def test_equal_differences_say_nothing(differences: list[float], cluster: type[None] | None) -> None:
    """Two MT-Bench questions that each gain 1, three runs that each gain 0.5: the mean stands, without interval and without p."""
    found = paired_difference(numbered(differences), numbered([0.0] * len(differences)), cluster)  # type: ignore[arg-type]
    assert found[1:5] == (None, None, len(differences), None)
    assert t_interval(differences, "t")[:3] == (pytest.approx(differences[0]), None, None)


def test_p_and_interval_always_agree() -> None:
    """p is below 0.05 exactly where the interval leaves 0 out: 0/100 values, points in clusters, subtasks, a mean of all three."""
    draw = np.random.default_rng(7)
    for _ in range(150):
        shift, n = draw.normal(0.0, 0.3), int(draw.integers(4, 40))
        right = numbered((100.0 * (draw.random(n) < 0.5)).tolist())
        left = numbered((100.0 * (draw.random(n) < 0.5 + shift)).tolist())
        rated = {f"{i // 2}-{i % 2}": float(draw.normal(shift, 1.0)) for i in range(2 * n)}
        strata = Strata({key: str(int(key) % 2) for key in left}, by_size=bool(n % 2))
        found = [
            paired_difference(left, right),
            paired_difference(rated, dict.fromkeys(rated, 0.0), question_of),
            paired_difference(left, right, strata=strata),
        ]
        for one in (*found, mean_of_differences(found)):
            assert one.low is not None
            assert one.high is not None
            assert one.p is not None
            assert (one.p < 0.05) == (one.low > 0 or one.high < 0)


@pytest.mark.parametrize("n", [8, 16, 32, 200])
@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98])
def test_intervals_of_accuracies_cover(n: int, rate: float) -> None:
    """Two rows that answer `rate` of the questions, a fifth of the answers drawn anew: 95 % of intervals hold 0, with few changes more."""
    draw = np.random.default_rng(round(1000 * rate) + n)
    num_runs = 600
    luck, again, renewed = draw.random((num_runs, n)), draw.random((num_runs, n)), draw.random((num_runs, n)) < 0.2
    changes = (np.where(renewed, again, luck) < rate).astype(int) - (luck < rate)
    quantile, held = stats.t.ppf(0.975, n - 1), 0
    for gained, lost in zip((changes > 0).sum(axis=1).tolist(), (changes < 0).sum(axis=1).tolist(), strict=True):
        centre, error = bonett_price(gained, lost, n)
        held += abs(centre) <= quantile * error
    assert held / num_runs >= 0.935


def test_intervals_of_a_shifted_accuracy_cover() -> None:
    """A true gain of 10 points on 200 questions is held by about 95 % of the intervals, not by all."""
    draw = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        uniform, flipped = draw.random(200), draw.random(200) < 0.2
        b = np.where(flipped, draw.random(200), uniform) < 0.5
        found = paired_difference(numbered((100.0 * (uniform < 0.6)).tolist()), numbered((100.0 * b).tolist()))
        covered += found.low <= 10 <= found.high  # type: ignore[operator]
    assert 0.93 <= covered / 400 <= 0.975


def test_a_mean_over_subtasks_is_compared_as_one() -> None:
    """10 of 10 answers gained in one subject, none of 150 in the other: the subjects' mean gains 50 points, the questions' 6.25."""
    strata = Strata({str(i): "small" if i < 10 else "large" for i in range(160)})
    before, after = numbered([0.0] * 160), numbered([100.0] * 10 + [0.0] * 150)
    found = paired_difference(after, before, strata=strata)
    assert found.difference == 50.0
    assert found.low is not None
    assert 0 < found.low < 50.0
    assert paired_difference(after, before, strata=strata._replace(by_size=True)).difference == 6.25


def test_subtasks_of_equal_size_without_a_change_say_what_the_questions_say() -> None:
    """The answers that Bonett and Price add are shared out among the subtasks, so that parts do not widen the whole."""
    values, strata = numbered([0.0] * 60), Strata({str(i): str(i // 20) for i in range(60)})
    whole, parts = paired_difference(values, values), paired_difference(values, values, strata=strata)
    assert parts.high == pytest.approx(whole.high, rel=0.05)


@pytest.mark.parametrize(("num_subtasks", "size", "rate"), [(6, 4, 0.2), (6, 20, 0.02), (57, 10, 0.1), (57, 100, 0.3)])
def test_intervals_over_subtasks_cover(num_subtasks: int, size: int, rate: float) -> None:
    """Subtasks that gain and lose at rates of their own: 95 % of the intervals hold the mean of their true differences."""
    draw = np.random.default_rng(11)
    names = [f"{i}-{j}" for i in range(num_subtasks) for j in range(size)]
    strata, covered = Strata({name: question_of(name) for name in names}), 0
    for _ in range(200):
        gain, loss = (np.clip(draw.normal(rate, 0.3 * rate, (num_subtasks, 1)), 0.0, 0.5) for _ in range(2))
        uniform = draw.random((num_subtasks, size))
        answers = (100.0 * (uniform < gain).ravel(), 100.0 * (uniform > 1 - loss).ravel())
        a, b = (dict(zip(names, one.tolist(), strict=True)) for one in answers)
        found = paired_difference(a, b, strata=strata)
        covered += found.low <= 100 * float((gain - loss).mean()) <= found.high  # type: ignore[operator]
    assert covered / 200 >= 0.92


def test_a_subtask_of_one_question_takes_the_others_variance() -> None:
    """Promise: 56 subjects of 100 questions and one of 1, weighted alike, err by 0.0219 of the questions' spread; by size by 0.0134."""
    values = numbered([1.0, -1.0] * 2800 + [1.0])
    strata, zero = Strata({key: str(int(key) // 100) for key in values}), dict.fromkeys(values, 0.0)
    spread = math.sqrt(5600 / 5544)
    alike, by_size = (paired_difference(values, zero, strata=one) for one in (strata, strata._replace(by_size=True)))
    assert (alike.stderr, alike.dof) == (pytest.approx(spread * math.sqrt(56 / 100 + 1) / 57), 5544.0)
    assert alike.stderr == pytest.approx(0.0219 * spread, rel=5e-3)
    assert by_size.stderr == pytest.approx(spread / math.sqrt(5601))
    single = paired_difference(numbered([1.0, 2.0, 4.0]), numbered([0.0] * 3), strata=Strata({str(i): str(i) for i in range(3)}))
    assert (single.stderr, single.dof) == (pytest.approx(math.sqrt(7 / 3 / 3)), 2.0)


def test_intervals_over_subtasks_cover_with_one_of_a_single_question() -> None:
    """Nine subjects of 20 questions and one of 1: one sample of all covers 79 %."""
    draw, ids = np.random.default_rng(5), [str(i) for i in range(181)]
    strata, zero, covered = Strata({key: str(int(key) // 20) for key in ids}), dict.fromkeys(ids, 0.0), 0
    for _ in range(500):
        found = paired_difference(dict(zip(ids, draw.normal(size=181).tolist(), strict=True)), zero, strata=strata)
        covered += found.low <= 0 <= found.high  # type: ignore[operator]
    assert 0.93 <= covered / 500 <= 0.975


def test_mean_of_differences_is_narrower_than_its_parts() -> None:
    """Two tasks of equal error: stderr falls by sqrt(2), degrees of freedom add up (Satterthwaite)."""
    draw = np.random.default_rng(3)
    values = draw.normal(0.5, 1.0, 20)
    one = t_interval(values.tolist(), "t")
    both = mean_of_differences([one, one])
    assert both.difference == pytest.approx(one.difference)
    assert both.stderr == pytest.approx(one.stderr / math.sqrt(2))  # type: ignore[operator]
    assert both.dof == pytest.approx(38.0)
