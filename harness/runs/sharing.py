"""Stages of one identity are made once: what another run has finished is linked into this one, with its records.

A stage is taken where its fingerprint is the planned one and it was made from the very bytes this run has as its inputs, so
`harness verify` holds for the run as if it had made the stage itself. Files are hard links (copies across disks): finished work is
only ever replaced by rename, never written in place, but for a training's log, which is copied: made again it grows line by line. A model
of a path is not taken: what lies at the path may be another by now.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.artifact import DONE_FILE, LOG_FILE, STAGE_FILE, Launch, Record, RunDir, Stage, content_of, difference
from harness.errors import InputError
from harness.files import dump, write_atomic

BESIDE = ".sharing"


class Shared(NamedTuple):
    """A stage of this run and the name of the run that made it."""

    stage: Stage
    made_by: str


def share(stages: Iterable[Stage], run: RunDir, others: Sequence[RunDir]) -> list[Shared]:
    """Link into `run` every missing stage of its plan that one of `others` has finished; `stages` have inputs before their readers."""
    shutil.rmtree(run.path / BESIDE, ignore_errors=True)  # of a launch that was killed while linking
    shared = []
    finished = [(other, other.finished()) for other in others]
    for stage in stages:
        if run.state(stage) != "missing" or _is_of_a_path(stage):
            continue
        for other, paths in finished:
            if stage.fingerprint in paths and _take(stage, run, other, paths[stage.fingerprint]):
                shared.append(Shared(stage, other.path.name))
                break
    return shared


def _is_of_a_path(stage: Stage) -> bool:
    return stage.kind == "model" and stage.spec["model"]["source"] == "path"


def _take(stage: Stage, run: RunDir, other: RunDir, path: str) -> bool:
    """Whether the stage at `path` of `other` could be linked into `run` as `stage`."""
    launch, record = other.launch(path), other.record(path)
    if launch is None or record is None or not _is_honest(stage, launch, record) or not _has_inputs(stage, run, launch):
        return False
    if not _is_whole(other, path, record):
        return False
    beside, target = run.path / BESIDE, run.stage_dir(stage.path)
    for name in record.outputs:
        _link(other.stage_dir(path) / name, beside / name)
    launches = [{"shared_from": f"{other.path.name}/{path}", **origin} for origin in launch.launches]
    write_atomic(beside / STAGE_FILE, dump(launch.model_copy(update={"stage": stage, "launches": launches})))
    write_atomic(beside / DONE_FILE, dump(record))
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)  # no stage.json there, so nothing that could be continued
    beside.rename(target)
    return True


def _is_honest(stage: Stage, launch: Launch, record: Record) -> bool:
    """Whether the other's records state of themselves what follows from them: that run is not ours."""
    return not difference(launch.stage, stage) and record.fingerprint == stage.fingerprint and record.content == content_of(record.outputs)


def _is_whole(other: RunDir, path: str, record: Record) -> bool:
    """Whether all outputs are there, as files of the other run's own."""
    own = other.path.resolve()
    files = [other.stage_dir(path) / name for name in record.outputs]
    if any(file.is_symlink() or not file.is_file() or not file.resolve().is_relative_to(own) for file in files):
        return False  # packed, or not committed
    try:
        other.read_content(path)
    except InputError:
        return False  # its weights, responses or samples are not here, as in a fresh checkout, or are not what its record says
    return True


def _has_inputs(stage: Stage, run: RunDir, launch: Launch) -> bool:
    """Whether `run` has, finished, the very bytes the other stage was made from."""
    records: dict[str, Record | None] = {role: run.record(path) for role, path in stage.inputs.items()}
    return all(record is not None and record.content == launch.input_contents.get(role) for role, record in records.items())


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.name == LOG_FILE:
        shutil.copyfile(source, target)
        return
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        shutil.copyfile(source, target)
