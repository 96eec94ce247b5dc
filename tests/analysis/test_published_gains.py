"""Published gains beside the noise of the scores they are made of."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.analysis.published import claim
from harness.analysis.published_gains import gains_with_errors, standard_error, summary
from harness.paper import STANDARD_ERRORS


def test_only_the_first_iterations_of_the_paper_stand_out() -> None:
    """Of 28 gains five exceed their unpaired error, none after iter1."""
    found = gains_with_errors("paper/leaderboard")
    assert len(found) == 28
    exceeding = {(gain.row, gain.task) for gain in found if gain.exceeds}
    iter0 = {("iter0", task) for task in ("truthfulqa_mc2", "gsm8k", "hellaswag", "average")}
    assert exceeding == iter0 | {("iter1", "truthfulqa_mc2")}


def test_the_last_printed_gain_is_noise() -> None:
    """+0.19 from iter2 to iter3, give or take 1.34."""
    last = gains_with_errors("paper/leaderboard")[-1]
    assert (last.row, last.task, last.gain) == ("iter3", "average", 0.19)
    assert last.reach == pytest.approx(1.34, abs=5e-3)
    assert not last.exceeds


def test_a_line_for_under_the_table() -> None:
    """The paper's leaderboard in one sentence; a table without any known error has none."""
    assert summary("paper/leaderboard") == (
        "Of 28 gains over the row before, 5 exceed their own unpaired 95 % sampling error: iter0 truthfulqa_mc2 +5.45, "
        "iter0 gsm8k +8.34, iter0 hellaswag +1.53, iter0 average +2.66, iter1 truthfulqa_mc2 +5.99"
    )
    assert str(summary("paper/big_bench")).startswith("Of 12 gains over the row before, 0 exceed")
    assert str(summary("paper/leaderboard", {"gsm8k"})).startswith("Of 4 gains over the row before, 1 exceed")
    assert summary("paper/mt_bench") is None


def test_an_error_worked_by_hand() -> None:
    """GSM8K of iter0: sqrt(35.10 x 64.90 / 1319) = 1.314 points."""
    found = claim("paper/leaderboard", "iter0", "gsm8k")
    assert found is not None
    assert standard_error(found) == pytest.approx(1.314, abs=5e-4)


def test_errors_agree_with_the_stated_ones() -> None:
    """Where both are known, the binomial error and STANDARD_ERRORS say the same to a tenth of a point."""
    for task, fact in STANDARD_ERRORS.items():
        found = claim("paper/leaderboard", "sft", task)
        assert found is not None
        assert standard_error(found) == pytest.approx(fact.value, abs=0.11), task


def test_what_has_no_spread_is_unknown() -> None:
    """MT-Bench scores come without any spread, so nothing is said about their gains."""
    for gain in gains_with_errors("paper/mt_bench"):
        assert (gain.reach, gain.exceeds) == (None, False)


def test_an_unknown_table_is_an_error() -> None:
    """With the known ones listed."""
    with pytest.raises(LookupError, match="paper/leaderboard"):
        gains_with_errors("paper/leaderbord")


def test_unpaired_errors_are_wide_for_paired_answers() -> None:
    """Two rows that share their questions' difficulty: the unpaired 95 % interval covers far more often than 95 % (seeded simulation)."""
    draw = np.random.default_rng(6)
    covered, num_runs, n = 0, 1000, 500
    for _ in range(num_runs):
        easy = draw.beta(0.5, 0.5, n)
        a, b = (float((draw.random(n) < easy).mean()) for _ in range(2))
        covered += abs(a - b) <= 1.96 * math.sqrt((a * (1 - a) + b * (1 - b)) / n)
    assert covered / num_runs > 0.98
