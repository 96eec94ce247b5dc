"""Whether a run is what its records say: everything that can be computed again is, and compared."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from harness.artifact import (
    DONE_FILE,
    RECIPE_FILE,
    STAGE_FILE,
    Launch,
    Record,
    RunDir,
    Stage,
    content_of,
    difference,
    fingerprint_of,
    read_recipe,
)
from harness.contracts.run_files import ARCHIVE, UNFINISHED, hash_of, packed, read_archive, size_of, stage_paths
from harness.errors import HarnessError, InputError
from harness.files import Output, parse_model
from harness.plan import SCORED, plan
from harness.runs.committed_records import Unfinished, committed_files, unfinished, unfinished_file

SCORES = "scores/"
"""The outputs every table is made of: they are always there."""


class Damage(NamedTuple):
    """A file or a stage that is not what the records say."""

    path: str
    reason: str


class Verified(NamedTuple):
    """What is wrong, which files are absent because they are not committed, and how many files were hashed.

    `unfinished`: the stages that were not finished when the run was packed, as its archive says.
    """

    damage: list[Damage]
    absent: list[str]
    checked: int
    unfinished: list[str]


def verify(run: RunDir) -> Verified:
    """Compare the recipe with the stages, the records with themselves and with each other, and every output with its hash."""
    try:
        listed = _listed(run)
        planned, damage = _planned(run)
        damage = [*_archive_damage(run, planned), *damage, *_recipe_damage(run, planned, listed), *_without_stage_file(run)]
    except InputError as error:  # the archive cannot be read
        return Verified([Damage(ARCHIVE, str(error))], [], 0, [])
    absent, checked = list[str](), 0
    for path in run.stages():
        try:
            launch, record = run.launch(path), run.record(path)
        except InputError as error:
            damage.append(Damage(path, str(error)))
            continue
        assert launch is not None
        damage += _launch_damage(run, path, launch)
        if record is None:
            damage.append(Damage(path, "not finished"))
            continue
        found = _verify_stage(run, path, launch, record)
        damage, absent, checked = damage + found.damage, absent + found.absent, checked + found.checked
    return Verified(damage, absent, checked, listed)


def _verify_stage(run: RunDir, path: str, launch: Launch, record: Record) -> Verified:
    """The record and the files of a finished stage."""
    damage = [Damage(path, reason) for reason in _record_faults(launch, record)]
    damage += [Damage(f"{path}/{name}", f"is not in {path}/{DONE_FILE}") for name in run.strays(path, record)]
    absent = [name for name in record.outputs if size_of(run.path, f"{path}/{name}") is None]
    there = [name for name in record.outputs if name not in absent]
    for name in there:
        reason = _file_fault(run, f"{path}/{name}", record.outputs[name])
        if reason:
            damage.append(Damage(f"{path}/{name}", reason))
    damage += [Damage(f"{path}/{name}", "is recorded and not here") for name in absent if name.startswith(SCORES)]
    return Verified(damage, [f"{path}/{name}" for name in absent if not name.startswith(SCORES)], len(there), [])


def _record_faults(launch: Launch, record: Record) -> Iterator[str]:
    if record.fingerprint != launch.stage.fingerprint:
        yield f"{DONE_FILE} and {STAGE_FILE} disagree about the fingerprint"
    if record.content != content_of(record.outputs):
        yield f"{DONE_FILE} states a content that does not follow from its outputs"
    unscored = [task for task in _tasks(launch.stage) if f"{SCORES}{task}.json" not in record.outputs]
    if unscored:
        yield f"{DONE_FILE} lists no score of {', '.join(unscored)}"


def _tasks(stage: Stage) -> list[str]:
    """The tasks of an evaluation."""
    return [task["name"] for task in stage.spec["benchmark"]["tasks"]] if stage.kind in SCORED else []


def _file_fault(run: RunDir, name: str, recorded: Output) -> str | None:
    try:
        return None if hash_of(run.path, name) == recorded else "its bytes differ from the recorded sha256"
    except InputError:
        return "is no plain file"


def _launch_damage(run: RunDir, path: str, launch: Launch) -> Iterator[Damage]:
    stage = launch.stage
    if stage.path != path:
        yield Damage(path, f"its {STAGE_FILE} is that of {stage.path}")
    if stage.fingerprint != fingerprint_of(stage):
        yield Damage(path, f"{STAGE_FILE} states a fingerprint that does not follow from its spec")
    for role, before in stage.inputs.items():
        try:
            record = run.record(before)
        except InputError:
            continue  # damage of that stage
        if record is None or record.content != launch.input_contents.get(role, record.content):
            yield Damage(path, f"was made from other bytes of {before} than those there now")


def _planned(run: RunDir) -> tuple[Sequence[Stage], list[Damage]]:
    """The stages that the run's recipe plans, or why that cannot be told; neither of a run without a recipe."""
    if not os.path.lexists(run.path / RECIPE_FILE):
        return [], []
    try:
        return plan(read_recipe(run.path)), []
    except HarnessError as error:
        return [], [Damage(RECIPE_FILE, str(error))]


def _listed(run: RunDir) -> list[str]:
    """The stages that the archive of a packed run says were not finished; where there are directories, these are the run."""
    content = packed(run.path).get(UNFINISHED)
    return [] if content is None else parse_model(Unfinished, content, run.path / ARCHIVE / UNFINISHED).stages


def _recipe_damage(run: RunDir, planned: Sequence[Stage], listed: list[str]) -> Iterator[Damage]:
    """Where the stages are not those `planned`, but for those `listed`; what the recipe does not plan is left alone."""
    for stage in planned:
        try:
            launch = run.launch(stage.path)
        except InputError:
            continue  # damage of that stage
        if launch is None and stage.path in listed:
            continue
        if launch is None:
            yield Damage(stage.path, f"is planned by {RECIPE_FILE} and has no {STAGE_FILE}")
        elif parts := _other_parts(launch.stage, stage):
            yield Damage(stage.path, f"is not what {RECIPE_FILE} plans: {', '.join(parts)}")


def _other_parts(found: Stage, planned: Stage) -> list[str]:
    """The fields of the spec, and the inputs, that differ. A component's version may have grown since."""
    fields = [field for field, _, _ in difference(found, planned) if field.startswith(("spec", "kind"))]
    return fields + [f"inputs.{role}" for role, path in planned.inputs.items() if found.inputs.get(role) != path]


def _without_stage_file(run: RunDir) -> Iterator[Damage]:
    """Directories with a record of work and nothing that says what work."""
    for path in sorted({*stage_paths(run.path, DONE_FILE)} - {*run.stages()}):
        yield Damage(path, f"holds a {DONE_FILE} and no {STAGE_FILE}")


def _archive_damage(run: RunDir, planned: Sequence[Stage]) -> Iterator[Damage]:
    """Where the archive of a run whose stages have directories is no copy of them, and what is in an archive and of no stage."""
    archive = run.path / ARCHIVE
    if not archive.exists():
        return
    inside, left = read_archive(archive), unfinished(run, (stage.path for stage in planned))
    if not packed(run.path) and inside != committed_files(run, left):
        yield Damage(ARCHIVE, "is not what the stages here are; `harness pack RUN` renews it")
    known = tuple(f"{path}/" for path in run.stages())
    others = [name for name in inside if not name.startswith(known) and name != UNFINISHED]
    yield from (Damage(f"{ARCHIVE}/{name}", "is a file of no stage") for name in others)
    if packed(run.path) and UNFINISHED in inside and {UNFINISHED: inside[UNFINISHED]} != unfinished_file(left):
        yield Damage(f"{ARCHIVE}/{UNFINISHED}", f"does not list the unfinished stages as they are here: {', '.join(left) or 'none'}")
