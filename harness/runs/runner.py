"""Walk the plan: skip what is done, continue what is not, refuse what was made under another identity.

Each stage is a subprocess given one directory, so its memory is really freed and it can be run by hand: `harness stage DIR`.
"""

from __future__ import annotations

import fnmatch
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from harness.artifact import DONE_FILE, STAGE_FILE, Accepted, Launch, Record, RunDir, Stage, State, difference, write_recipe
from harness.config import line_in
from harness.contracts import OWN_MODULE
from harness.contracts.own_files import look_in
from harness.contracts.run_files import ARCHIVE, packed
from harness.contracts.unfinished import noting
from harness.errors import HarnessError, InputError, RecipeError, StaleError, suggest
from harness.files import dump, write_atomic
from harness.lm.progress import side_by_side
from harness.machine import Machine
from harness.plan import plan
from harness.recipe import Recipe
from harness.runs import committed_records
from harness.runs import lock as locks
from harness.runs.launches import Announce, Launches, environment, threads_of
from harness.runs.needs.directory import ignore, refuse_foreign
from harness.runs.slurm.following import Jobs
from harness.runs.slurm.queue import refuse_queued
from harness.runs.stage_processes import Processes


class Surveyed(NamedTuple):
    """A planned stage and the state of its directory."""

    stage: Stage
    state: State


def survey(recipe: Recipe, run: RunDir) -> list[Surveyed]:
    """The state of every planned stage."""
    return [Surveyed(stage, run.state(stage)) for stage in plan(recipe)]


def reproduce(recipe: Recipe, run: RunDir, machine: Machine, only: str | None, announce: Announce) -> int:
    """Run what is missing of `recipe` in `run`, or of the stages matching the glob `only`; return how many stages ran."""
    stages = select(plan(recipe), only)
    refuse_foreign(run.path, recipe)
    with locks.hold(run.path) as lock:
        if machine.slurm is None:
            refuse_queued(run)
        _refuse_stale(recipe, run)
        if committed_records.is_records_only(run):
            aside = committed_records.set_aside(run)
            announce(f"{run.path} held only committed records, no weights: they were moved to {aside}, and every stage runs again")
        committed_records.refuse_packed(run)
        _refuse_unready(stages, run)
        write_recipe(run.path, recipe)
        ignore(run.path, recipe)
        with Processes(environment(machine), lock) as processes:  # it answers signals, for jobs that are only followed too
            if machine.slurm is not None:
                return Jobs(stages, run, machine, announce).run()
            return Launches(stages, run, machine, processes, announce).run()


def run_stage(directory: Path) -> None:
    """The body of a stage's own process: read `stage.json`, do the work in `directory`."""
    launch = RunDir(directory).launch(".")
    if launch is None:
        raise InputError(f"{directory} has no stage.json; expected a stage's directory such as results/tiny/iter0/train")
    stage = launch.stage
    root = directory
    for _ in Path(stage.path).parts:
        root = root.parent
    os.environ.update(threads_of(launch.machine))
    look_in(root)
    if launch.machine.slots > 1:
        side_by_side(stage.path)
    module = importlib.import_module(f"harness.stages.{stage.kind}")
    with noting(directory), _naming_own_files(directory):
        module.run(stage.spec, {role: root / path for role, path in stage.inputs.items()}, directory, launch.machine)


@contextmanager
def _naming_own_files(directory: Path) -> Iterator[None]:
    """Turn an exception that passed through a component of the user's own into an error that names its file and line."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        own = [Path(str(module.__file__)) for name, module in [*sys.modules.items()] if name.startswith(OWN_MODULE)]
        for path in own:
            if line := line_in(path, error):
                raise RecipeError(
                    f"{path.name} line {line}: {type(error).__name__}: {error}; correct the file, and remove {directory}, which was begun "
                    "with it as it is: the file is part of the stage's identity"
                ) from error
        raise


def accept(recipe: Recipe, run: RunDir, stage_path: str, because: str) -> list[tuple[str, Any, Any]]:
    """Keep the finished work at `stage_path` under the recipe's identity; the difference and the reason are recorded beside it.

    What was made from it, and differs in nothing else, is kept with it.
    """
    planned = {stage.path: stage for stage in plan(recipe)}
    if stage_path not in planned:
        raise InputError(f"the recipe plans no stage {stage_path!r}{suggest(stage_path, planned)}")
    if run.record(stage_path) is None:
        raise InputError(f"{run.stage_dir(stage_path)} is not finished; only finished work can be accepted")
    with locks.hold(run.path):
        refuse_queued(run)
        committed_records.refuse_packed(run)
        launch, record = run.launch(stage_path), run.record(stage_path)
        assert launch is not None
        assert record is not None
        changes = difference(launch.stage, planned[stage_path])
        if not changes:
            raise InputError(f"{stage_path} already has the recipe's identity; nothing to accept")
        _keep(run, planned[stage_path], launch, record, because)
        for stage in planned.values():
            launch, record = run.launch(stage.path), run.record(stage.path)
            if launch and record and _was_made_from_kept(run, stage, launch):
                _keep(run, stage, launch, record, because, follows=stage_path)
    return changes


def _keep(run: RunDir, stage: Stage, launch: Launch, record: Record, because: str, *, follows: str | None = None) -> None:
    """Put finished work under the identity of `stage`, with its difference and the reason beside it."""
    folder, changes = run.stage_dir(stage.path), difference(launch.stage, stage)
    entry = Accepted(fingerprint=launch.stage.fingerprint, difference=changes, because=because, follows=follows)
    write_atomic(folder / DONE_FILE, dump(record.model_copy(update={"fingerprint": stage.fingerprint})))
    write_atomic(folder / STAGE_FILE, dump(launch.model_copy(update={"stage": stage, "accepted": [*launch.accepted, entry]})))


def _was_made_from_kept(run: RunDir, stage: Stage, launch: Launch) -> bool:
    """Whether the work differs from `stage` in the identities of its inputs alone, and these were kept under the ones it asks for."""
    kept = {f"inputs.{role}": found for role, path in stage.inputs.items() if (found := run.launch(path))}
    changes = difference(launch.stage, stage)
    return bool(changes) and all(
        field in kept and kept[field].stage.fingerprint == new and old in {one.fingerprint for one in kept[field].accepted}
        for field, old, new in changes
    )


def select(stages: Sequence[Stage], only: str | None) -> list[Stage]:
    """The stages whose paths match the glob `only`; all of them without one. Raises `InputError` where none does."""
    selected = [stage for stage in stages if only is None or fnmatch.fnmatch(stage.path, only)]
    if not selected:
        raise InputError(f"--only {only!r} matches no stage{suggest(str(only), [stage.path for stage in stages])}")
    return selected


def _refuse_stale(recipe: Recipe, run: RunDir) -> None:
    stale = [stage for stage, state in survey(recipe, run) if state == "stale"]
    if not stale:
        return
    lines = []
    for stage in stale:
        launch = run.launch(stage.path)
        assert launch is not None
        own = [item for item in difference(launch.stage, stage) if not item[0].startswith("inputs.")]
        lines += [f"  {stage.path}: {field.removeprefix('spec.')} is {old!r} on disk, {new!r} in the recipe" for field, old, new in own]
        if not own:
            lines.append(f"  {stage.path}: follows from its inputs {', '.join(sorted(launch.stage.inputs.values()))}")
    raise StaleError(
        f"{len(stale)} stage(s) in {run.path} were made under another identity:\n"
        + "\n".join(lines)
        + "\nways out: give the changed recipe a name of its own (or --out DIR); "
        'keep a stage with `harness accept RECIPE STAGE --because "..."`; '
        f"or remove {run.path / ARCHIVE if packed(run.path) else 'its directory'} to make it again"
    )


def _refuse_unready(stages: Sequence[Stage], run: RunDir) -> None:
    """Each stage's inputs must be finished or made before it in this run."""
    coming = {stage.path for stage in stages}
    for stage in stages:
        if is_half_imported(stage, run):
            folder = run.stage_dir(stage.path)
            raise InputError(f"the import of {stage.path} did not end; run `harness import-pairs` again, or remove {folder}")
        missing = [path for path in stage.inputs.values() if path not in coming and run.record(path) is None]
        if missing:
            raise InputError(f"{stage.path} needs {' and '.join(missing)}, not finished yet; run that first (--only takes a glob)")


def is_half_imported(stage: Stage, run: RunDir) -> bool:
    """Whether `stage` was being brought in from elsewhere when that ended: nothing of our own may be added to it."""
    launch = run.launch(stage.path)
    imported = launch is not None and bool(launch.launches) and "imported" in launch.launches[-1]
    return imported and run.record(stage.path) is None
