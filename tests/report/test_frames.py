"""A run in Python: its scores, samples, pairs and logs as frames, from a finished run and from what a clone brings."""

from __future__ import annotations

import subprocess
import sys

import pytest

import harness
from harness.analysis.scores import load_scores
from harness.errors import InputError
from tests import ROOT

TINY = ROOT / "results/tiny"


def test_scores_and_logs_of_a_committed_run() -> None:
    """Every score of the tables is a line with its value, and a training's log a line a step."""
    run = harness.load_run(TINY)
    scores = load_scores(TINY, run.recipe)
    found = {(row, column.label): scores.score(row, column) for row in scores.rows for column in scores.tasks}
    values = {(line.row, line.column): line.value for line in run.scores.itertuples()}
    assert values == {key: score.value for key, score in found.items() if score}
    log = run.log("iter0")
    assert list(log["step"]) == list(range(len(log)))
    assert log["rewards/margin"].notna().all()


def test_what_is_not_there_is_named() -> None:
    """A misspelt row or column, an iteration too many, and files that are not committed are one line each."""
    run = harness.load_run(TINY)
    with pytest.raises(InputError, match="has no row 'iter9'; did you mean 'iter"):
        run.log("iter9")
    with pytest.raises(InputError, match=r"has no column 'kl_'; did you mean 'kl'"):
        run.samples("iter0", "kl_")
    with pytest.raises(InputError, match="has no iteration 7; expected one from 0 to 2"):
        run.pairs(7)
    with pytest.raises(InputError, match=r"holds no recipe\.json"):
        harness.load_run(ROOT / "docs")


def test_importing_harness_is_light() -> None:
    """`import harness` loads neither pandas nor torch; a name it has not is an error."""
    asked = "import sys, harness; print(sorted({'pandas', 'torch'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="has no attribute 'load_runs'"):
        _ = harness.load_runs
