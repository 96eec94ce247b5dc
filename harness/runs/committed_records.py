"""Runs that hold only what is committed, as after `git clone`: records, scores and tables, no weights, responses or samples."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from harness.artifact import RunDir
from harness.errors import InputError

UNCOMMITTED = ("checkpoint/", "responses/", "samples/", "prompts.jsonl", "opponent_logps*")
"""Outputs that are too large, or not ours, to be committed; folders end with '/'."""


def is_records_only(run: RunDir) -> bool:
    """Whether work is recorded in `run` of which no uncommitted output is there."""
    records = [(path, record) for path in run.stages() if (record := run.record(path))]
    uncommitted = [run.stage_dir(path) / name for path, record in records for name in record.outputs if _is_uncommitted(name)]
    return bool(uncommitted) and not any(path.exists() for path in uncommitted)


def set_aside(run: RunDir) -> Path:
    """Move the records and tables to a directory beside the run's, which is returned; a move that was cut short is continued.

    Raises `InputError` where that directory holds others already.
    """
    target = run.path.with_name(f"{run.path.name}.recorded")
    tops = {"tables", *(path.split("/")[0] for path in run.stages())}
    here = sorted(top for top in tops if (run.path / top).exists())
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
