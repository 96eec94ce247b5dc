"""Runs that hold only what is committed, as after `git clone`: records, scores and tables, no weights, responses or samples."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.artifact import RECIPE_FILE, RunDir, read_recipe
from harness.config import InnerPath, Strict
from harness.contracts.run_files import ARCHIVE, DONE_FILE, STAGE_FILE, UNFINISHED, packed, read_file
from harness.errors import InputError
from harness.files import dump
from harness.plan import plan

UNCOMMITTED = ("checkpoint/", "responses/", "samples/", "prompts.jsonl", "opponent_logps*")
"""Outputs that are too large, or not ours, to be committed; folders end with '/'."""


class Unfinished(Strict):
    """`unfinished.json` in an archive: the planned stages that were not finished when it was packed, in the plan's order."""

    stages: list[InnerPath]


def planned_stages(run: RunDir) -> list[str]:
    """Paths of the stages that the run's recipe plans, in its order; none of a run without a recipe."""
    return [stage.path for stage in plan(read_recipe(run.path))] if (run.path / RECIPE_FILE).exists() else []


def unfinished(run: RunDir, planned: Iterable[str]) -> list[str]:
    """Those of the `planned` stages that are not finished."""
    return [path for path in planned if read_file(run.path, f"{path}/{DONE_FILE}") is None]


def is_records_only(run: RunDir) -> bool:
    """Whether work is recorded in `run` of which no uncommitted output is there."""
    records = [(path, record) for path in run.stages() if (record := run.record(path))]
    uncommitted = [run.stage_dir(path) / name for path, record in records for name in record.outputs if _is_uncommitted(name)]
    return bool(uncommitted) and not any(path.exists() for path in uncommitted)


def committed_files(run: RunDir, left: Sequence[str]) -> dict[str, bytes]:
    """{name: bytes} of what is committed of a run's stages: their records, and those of their outputs that are not too large.

    Of the stages in `left`, which are not finished, nothing is taken but that they are not.
    """
    records = {path: run.record(path) for path in run.stages() if path not in left}
    outputs = {path: [name for name in record.outputs if not _is_uncommitted(name)] for path, record in records.items() if record}
    names = [f"{path}/{name}" for path in records for name in (STAGE_FILE, DONE_FILE, *outputs.get(path, ()))]
    files = {name: content for name in names if (content := read_file(run.path, name)) is not None}
    return {**files, **unfinished_file(left)}


def unfinished_file(left: Sequence[str]) -> dict[str, bytes]:
    """{name: bytes} of the file that lists the stages in `left`; nothing where all are finished."""
    return {UNFINISHED: dump(Unfinished(stages=list(left)))} if left else {}


def refuse_packed(run: RunDir) -> None:
    """Raise `InputError` where the records lie packed: work goes on in the stages' directories only."""
    if packed(run.path):
        archive = run.path / ARCHIVE
        raise InputError(f"{archive} holds the records of this run; unpack them with `tar -xJf {archive} -C {run.path}`, and run again")


def set_aside(run: RunDir) -> Path:
    """Move the records and tables to a directory beside the run's, which is returned; a move that was cut short is continued.

    Raises `InputError` where that directory holds others already.
    """
    target = run.path.with_name(f"{run.path.name}.recorded")
    tops = {"tables", ARCHIVE, *(path.split("/")[0] for path in run.stages())}
    here = sorted((top for top in tops if (run.path / top).exists()), key=lambda top: (top == ARCHIVE, top))
    for top in here:
        if (target / top).exists():
            raise InputError(f"{target / top} is in the way of the records in {run.path}; move or remove {target} and run again")
    target.mkdir(exist_ok=True)
    for top in here:
        (run.path / top).rename(target / top)
    return target


def _is_uncommitted(name: str) -> bool:
    top, _, below = name.partition("/")
    return any(fnmatch.fnmatch(f"{top}/" if below else top, pattern) for pattern in UNCOMMITTED)
