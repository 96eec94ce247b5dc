"""One byte of what a killed stage had done: changed, cut off or gone, the stage says so or ends as if nothing had been."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, GradientState

from harness import files, machine
from harness import recipe as recipes
from harness.artifact import DONE_FILE, STAGE_FILE, RunDir, Stage
from harness.errors import HarnessError
from harness.files import hash_file
from harness.plan import plan
from harness.runs import runner
from tests import Told
from tests.damage import MACHINE, RECIPE
from tests.damage.test_bytes import CHANGES

pytestmark = pytest.mark.damage

CUT_SHORT = {"iter1/generate": 5, "iter1/train": 20, "sft/eval/mt_bench": 8, "sft/eval/distribution": 1}
"""{stage: after how many files it is cut short}: with shards, with a state after some steps, with verdicts, with samples and no score."""


NUM_FLIPS = 3


class CutShort(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture(autouse=True)
def own_accelerator() -> Iterator[None]:
    yield
    leave_accelerator()


def leave_accelerator() -> None:
    """Each stage is a process of its own elsewhere."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def cut_short(run: RunDir, stage: Stage, num_files: int) -> None:
    """Begin the stage anew and leave it after it has written so many files."""
    shutil.rmtree(run.stage_dir(stage.path))
    run.begin(stage, machine.load(str(MACHINE)), {})
    so_far = iter(range(num_files))

    def tell(path: Path, data: bytes) -> None:
        if path.is_relative_to(run.stage_dir(stage.path)) and next(so_far, None) is None:
            raise CutShort

    files.TOLD.append(tell)
    try:
        with pytest.raises(CutShort):
            runner.run_stage(run.stage_dir(stage.path))
    finally:
        files.TOLD.remove(tell)
        leave_accelerator()


def made(folder: Path) -> dict[str, str]:
    """Hashes of what a stage makes, but for what its clock wrote."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in (STAGE_FILE, DONE_FILE, "log.jsonl")]
    return {str(path.relative_to(folder)): hash_file(path).sha256 for path in paths}


def ends_well(folder: Path, expected: dict[str, str]) -> bool:
    """Whether the stage goes on to the files of an undisturbed one, or says in one line why not."""
    try:
        runner.run_stage(folder)
    except HarnessError as error:
        return len(str(error).splitlines()) == 1
    finally:
        leave_accelerator()
    return made(folder) == expected


@pytest.mark.parametrize("path", CUT_SHORT)
def test_unfinished_work(undisturbed: Path, tmp_path: Path, told: Told, path: str) -> None:
    """Promise: no byte that changed in unfinished work reaches a result; damaged work says what to remove, and nothing else is lost."""
    run = RunDir(tmp_path / "run")
    shutil.copytree(undisturbed, run.path)
    stage = next(stage for stage in plan(recipes.load(str(RECIPE))) if stage.path == path)
    cut_short(run, stage, CUT_SHORT[path])
    expected, folder = made(undisturbed / path), run.stage_dir(path)
    shutil.copytree(folder, tmp_path / "unfinished")
    assert ends_well(folder, expected)
    assert made(folder) == expected
    names = sorted(str(one.relative_to(tmp_path / "unfinished")) for one in (tmp_path / "unfinished").rglob("*") if one.is_file())
    found = num = 0
    for what, seed in [*(("flips", seed) for seed in range(NUM_FLIPS)), ("truncations", 0), ("deletions", 0)]:
        for name in (name for name in names if name != STAGE_FILE):
            shutil.rmtree(folder)
            shutil.copytree(tmp_path / "unfinished", folder)
            whole = (folder / name).read_bytes()
            changed = CHANGES[what](whole, random.Random(f"{name} {seed}")) if whole else b"x"
            os.remove(folder / name) if changed is None else (folder / name).write_bytes(changed)
            is_well = ends_well(folder, expected)
            if not is_well:
                told(f"{what} of {path}/{name} reached the result")
            found, num = found + is_well, num + 1
    told(f"unfinished work {found}/{num} bytes, ends and files of {path}")
    assert found == num
