"""One byte of any file of a run: changed, cut off or gone, `verify` names the file."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.artifact import DONE_FILE, RECIPE_FILE, STAGE_FILE, RunDir
from harness.report.bundle import verify_run
from tests import Told
from tests.damage import STAGES

pytestmark = pytest.mark.damage

TOLD = {
    STAGE_FILE: ("machine", "launches", "accepted"),
    DONE_FILE: ("seconds", "peak_memory_mb"),
    RECIPE_FILE: ("name", "summary", "because"),
}
"""Of a record what only tells of the launch or the recipe: nothing follows from it that could be computed again."""


@pytest.fixture
def run(undisturbed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(undisturbed, tmp_path / "run"))


def flip(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return bytes([*data[:place], data[place] ^ rng.randrange(1, 256), *data[place + 1 :]])


CHANGES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "flips": flip,
    "truncations": lambda data, rng: data[: rng.randrange(len(data))],
    "deletions": lambda data, rng: None,
}


def is_found(run: Path, name: str) -> bool:
    """Whether `verify` names the file, or its stage or run as what it says something wrong of."""
    found = verify_run(run)
    named = [*(item.path for item in found.damage), *found.absent]
    return any(path == name or name.startswith(f"{path}/") for path in named)


@pytest.mark.parametrize("what", CHANGES)
def test_outputs_and_tables(run: Path, told: Told, what: str) -> None:
    """Promise: whichever file a record lists, and whichever table, is damaged or gone, it is named."""
    records = {stage: RunDir(run).record(stage) for stage in STAGES}
    names = [f"{stage}/{name}" for stage, record in records.items() if record for name in record.outputs]
    names += [f"tables/{path.name}" for path in (run / "tables").iterdir()]
    found = num = 0
    for name in names:
        path, whole = run / name, (run / name).read_bytes()
        changed = CHANGES[what](whole, random.Random(name)) if whole else b"x"
        path.unlink() if changed is None else path.write_bytes(changed)
        found, num = found + is_found(run, name), num + 1
        path.write_bytes(whole)
    told(f"{what} of outputs and tables {found}/{num}")
    assert found == num
    assert not verify_run(run).damage


@pytest.mark.parametrize("what", CHANGES)
def test_records(run: Path, told: Told, what: str) -> None:
    """Promise: a damaged record is named, unless the byte stands in what only tells where and when the stage ran."""
    names = [f"{stage}/{name}" for stage in STAGES for name in (STAGE_FILE, DONE_FILE)] + [RECIPE_FILE]
    found = told_only = num = 0
    for name in names:
        path, whole = run / name, (run / name).read_bytes()
        changed = CHANGES[what](whole, random.Random(name))
        path.unlink() if changed is None else path.write_bytes(changed)
        is_named = is_found(run, name) or (name == RECIPE_FILE and bool(verify_run(run).damage))
        if not is_named and changed is not None and follows(changed, path.name) == follows(whole, path.name):
            told_only += 1
        found, num = found + is_named, num + 1
        path.write_bytes(whole)
    told(f"{what} of records {found}/{num - told_only} ({told_only} more where nothing follows from the byte)")
    assert found == num - told_only


def follows(data: bytes, name: str) -> Any:
    """A record without what it only tells, white space and all."""
    try:
        return {field: value for field, value in json.loads(data).items() if field not in TOLD[name]}
    except (ValueError, AttributeError):
        return data
