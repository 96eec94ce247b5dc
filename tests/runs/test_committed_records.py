"""A run may hold only committed records, without weights: the same command then runs everything, and loses none of them."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from harness import machine
from harness.artifact import RunDir
from harness.contracts.run_files import ARCHIVE, read_archive, write_archive
from harness.errors import InputError, StaleError
from harness.plan import plan
from harness.recipe import load, replace
from harness.runs import runner
from harness.runs.committed_records import UNCOMMITTED, committed_files, is_records_only
from harness.runs.verification import verify
from tests import SMALL, fake_stages

CPU = machine.load("cpu")
RECIPE = load(str(SMALL))
PATHS = [stage.path for stage in plan(RECIPE)]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A finished run with its weights."""
    fake_stages.use(monkeypatch)
    runner.reproduce(RECIPE, RunDir(tmp_path / "made"), CPU, None, lambda _: None)
    (tmp_path / "made" / "launches").unlink()
    return RunDir(tmp_path / "made")


@pytest.fixture
def cloned(made: RunDir, tmp_path: Path) -> RunDir:
    """Its records in directories, without weights."""
    shutil.copytree(made.path, tmp_path / "small", ignore=shutil.ignore_patterns(*(name.rstrip("/") for name in UNCOMMITTED)))
    return RunDir(tmp_path / "small")


@pytest.fixture
def packed(made: RunDir, tmp_path: Path) -> RunDir:
    """As version control hands it on: what `git add` takes of the run, its records packed."""
    write_archive(made.path / ARCHIVE, committed_files(made, ()))
    target = tmp_path / "small"
    for command in (["init", "-q"], ["add", "."], ["checkout-index", "-a", f"--prefix={target}/"]):
        subprocess.run(["git", *command], cwd=made.path, check=True, capture_output=True)
    shutil.rmtree(made.path / ".git")
    return RunDir(target)


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
    damage, absent, checked, _ = verify(RunDir(aside))
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


def test_git_takes_few_files_of_a_packed_run(packed: RunDir) -> None:
    """Promise: of a run on the machine that made it, git sees the recipe, the archive and what stands beside them, and no weights."""
    assert {path.name for path in packed.path.rglob("*")} == {".gitignore", "recipe.json", ARCHIVE}
    outputs = {name.split("/")[-2] for name in read_archive(packed.path / ARCHIVE)}
    assert "checkpoint" not in outputs
    assert {packed.state(stage) for stage in plan(RECIPE)} == {"done"}


def test_a_packed_run_is_set_aside_whole(packed: RunDir) -> None:
    """Promise: in a clone the same command moves the archive aside, makes every stage, and loses no record; again, nothing runs."""
    lines = reproduce(packed)
    aside = packed.path.with_name("small.recorded")
    assert "only committed records, no weights" in lines[0]
    assert not (packed.path / ARCHIVE).exists()
    assert fake_stages.launched(packed.path) == PATHS
    damage, absent, checked, _ = verify(RunDir(aside))
    assert (damage, bool(absent), checked > 0) == ([], True, True)
    assert all(line.endswith("done earlier") for line in reproduce(packed))


def test_packed_records_with_weights_are_unpacked_by_hand(packed: RunDir, made: RunDir) -> None:
    """Promise: weights beside packed records stop the run in one line with a command; after it the run goes on, and nothing runs again."""
    for stage in ("sft/model", "iter0/train"):
        shutil.copytree(made.path / stage / "checkpoint", packed.path / stage / "checkpoint")
    with pytest.raises(InputError, match=r"unpack them with `tar -xJf \S+records\.tar\.xz -C \S+`, and run again") as told:
        reproduce(packed)
    assert "\n" not in str(told.value)
    shutil.copytree(made.path, packed.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.json", "*.jsonl.gz"))
    with tarfile.open(packed.path / ARCHIVE) as tar:
        tar.extractall(packed.path, filter="data")
    reproduce(packed)
    assert fake_stages.launched(packed.path) == []
    assert verify(packed).damage == []


def test_nothing_is_written_beside_packed_records(packed: RunDir) -> None:
    """Promise: work made under another identity is refused with the archive named, and is not accepted while it is packed."""
    changed = replace(RECIPE, name="small", seed=RECIPE.seed + 1)
    with pytest.raises(StaleError, match=r"remove \S+records\.tar\.xz to make it again"):
        runner.reproduce(changed, packed, CPU, None, lambda _: None)
    with pytest.raises(InputError, match="unpack them"):
        runner.accept(changed, packed, "iter0/generate", "a test")
    assert not list(packed.path.rglob("stage.json"))
