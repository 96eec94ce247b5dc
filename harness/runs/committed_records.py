"""Runs that hold only what is committed, as after `git clone`: records, scores and tables, no weights, responses or samples."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from harness.artifact import RunDir
from harness.contracts.run_files import ARCHIVE, DONE_FILE, STAGE_FILE, packed, read_file
from harness.errors import InputError

UNCOMMITTED = ("checkpoint/", "responses/", "samples/", "prompts.jsonl", "opponent_logps*")
"""Outputs that are too large, or not ours, to be committed; folders end with '/'."""


def is_records_only(run: RunDir) -> bool:
    """Whether work is recorded in `run` of which no uncommitted output is there."""
    records = [(path, record) for path in run.stages() if (record := run.record(path))]
    uncommitted = [run.stage_dir(path) / name for path, record in records for name in record.outputs if _is_uncommitted(name)]
    return bool(uncommitted) and not any(path.exists() for path in uncommitted)


def committed_files(run: RunDir) -> dict[str, bytes]:
    """{name: bytes} of what is committed of a run's stages: their records, and those of their outputs that are not too large."""
    records = {path: run.record(path) for path in run.stages()}
    outputs = {path: [name for name in record.outputs if not _is_uncommitted(name)] for path, record in records.items() if record}
    names = [f"{path}/{name}" for path in records for name in (STAGE_FILE, DONE_FILE, *outputs.get(path, ()))]
    return {name: content for name in names if (content := read_file(run.path, name)) is not None}


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
