"""A run may hold only committed records, without weights: the same command then runs everything, and loses none of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness import machine
from harness.artifact import RunDir
from harness.errors import InputError
from harness.plan import plan
from harness.recipe import load
from harness.runs import runner
from harness.runs.committed_records import UNCOMMITTED, is_records_only
from harness.runs.verification import verify
from tests import SMALL, fake_stages

CPU = machine.load("cpu")
RECIPE = load(str(SMALL))
PATHS = [stage.path for stage in plan(RECIPE)]


@pytest.fixture
def cloned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A finished run as version control hands it on."""
    fake_stages.use(monkeypatch)
    runner.reproduce(RECIPE, RunDir(tmp_path / "made"), CPU, None, lambda _: None)
    shutil.copytree(
        tmp_path / "made", tmp_path / "small", ignore=shutil.ignore_patterns(*(name.rstrip("/") for name in UNCOMMITTED), "launches")
    )
    return RunDir(tmp_path / "small")


def reproduce(run: RunDir) -> list[str]:
    lines: list[str] = []
    runner.reproduce(RECIPE, run, CPU, None, lines.append)
    return lines


def test_everything_is_made_and_the_records_are_kept(cloned: RunDir) -> None:
    """The first line says where the records went; every stage runs; the records still verify there; again, nothing runs."""
    lines = reproduce(cloned)
    aside = cloned.path.with_name("small.recorded")
    assert "only committed records, no weights" in lines[0]
    assert str(aside) in lines[0]
    assert fake_stages.launched(cloned.path) == PATHS
    damage, absent, checked = verify(RunDir(aside))
    assert (damage, bool(absent), checked > 0) == ([], True, True)
    assert all(line.endswith("done earlier") for line in reproduce(cloned))


def test_a_move_that_was_cut_short_continues(cloned: RunDir) -> None:
    """Killed between two moves, the same command moves the rest."""
    aside = cloned.path.with_name("small.recorded")
    aside.mkdir()
    (cloned.path / "sft").rename(aside / "sft")
    reproduce(cloned)
    assert {path.name for path in aside.iterdir()} == {path.split("/")[0] for path in PATHS}


def test_records_are_never_overwritten(cloned: RunDir) -> None:
    """Records set aside earlier are in the way: one line, and nothing moves."""
    (cloned.path.with_name("small.recorded") / "sft").mkdir(parents=True)
    with pytest.raises(InputError, match=r"small\.recorded/sft is in the way"):
        reproduce(cloned)
    assert {path.split("/")[0] for path in PATHS} <= {path.name for path in cloned.path.iterdir()}


def test_a_run_with_some_of_its_weights_is_not_records_only(cloned: RunDir) -> None:
    """Where anything uncommitted is left, the run is one's own: a missing file stays an error that says what to do."""
    (cloned.path / "prompts" / "prompts.jsonl").write_text("kept")
    assert not is_records_only(cloned)
    with pytest.raises(InputError, match="is missing"):
        reproduce(cloned)
