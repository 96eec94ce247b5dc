"""Walk the plan: skip what is done, continue what is not, refuse what was made under another identity.

Each stage is a subprocess given one directory, so its memory is really freed and it can be run by hand: `harness stage DIR`.
"""

from __future__ import annotations

import fnmatch
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from harness.artifact import DATA_DIR, DONE_FILE, STAGE_FILE, Accepted, Launch, RunDir, Stage, State, difference, look_in, write_recipe
from harness.config import line_in
from harness.contracts import OWN_MODULE
from harness.errors import HarnessError, InputError, MachineError, RecipeError, StageError, StaleError, suggest
from harness.files import dump, hash_file, write_atomic
from harness.machine import Machine
from harness.plan import plan
from harness.recipe import Recipe
from harness.runs import clone as recorded
from harness.runs import lock as locks
from harness.runs import provenance
from harness.runs.stage_processes import Processes

USER_ERROR_EXIT = 1
Announce = Callable[[str], None]


class Found(NamedTuple):
    """A planned stage and what stands on disk in its place."""

    stage: Stage
    state: State


class Damage(NamedTuple):
    """A file that is not what its record says."""

    path: str
    reason: str


def survey(recipe: Recipe, run: RunDir) -> list[Found]:
    """The state of every planned stage."""
    return [Found(stage, run.state(stage)) for stage in plan(recipe)]


def reproduce(recipe: Recipe, run: RunDir, machine: Machine, only: str | None, announce: Announce) -> int:
    """Run what is missing of `recipe` in `run`, or of the stages matching the glob `only`; return how many stages ran."""
    stages = _selected(plan(recipe), only)
    with locks.hold(run.path) as lock, Processes(_env(machine), lock) as processes:
        _refuse_stale(recipe, run)
        if recorded.is_records_only(run):
            aside = recorded.set_aside(run)
            announce(f"{run.path} held records without weights, as a clone brings them: they are in {aside} now, and all is made anew")
        _refuse_unready(stages, run)
        write_recipe(run.path, recipe)
        write_atomic(run.path / ".gitignore", "\n".join([*recorded.UNCOMMITTED, f"/{DATA_DIR}/", "*.tmp", ".lock", ""]).encode())
        ran = 0
        for number, stage in enumerate(stages, 1):
            title = f"[{number}/{len(stages)}] {stage.path}"
            if run.state(stage) == "done":
                run.checked_inputs(stage)
                run.checked_content(stage.path)
                announce(f"{title}: done earlier")
                continue
            announce(f"{title}: {'continues' if run.state(stage) == 'partial' else 'starts'}")
            seconds = _launch(stage, run, machine, processes)
            announce(f"{title}: finished in {seconds:.1f} s")
            ran += 1
        return ran


def run_stage(directory: Path) -> None:
    """The body of a stage's own process: read `stage.json`, do the work in `directory`."""
    launch = RunDir(directory).launch(".")
    if launch is None:
        raise InputError(f"{directory} has no stage.json; expected a stage's directory such as results/tiny/iter0/train")
    stage = launch.stage
    root = directory
    for _ in Path(stage.path).parts:
        root = root.parent
    os.environ.update(_threads(launch.machine))
    look_in(root)
    module = importlib.import_module(f"harness.stages.{stage.kind}")
    with _naming_own_files():
        module.run(stage.spec, {role: root / path for role, path in stage.inputs.items()}, directory, launch.machine)


@contextmanager
def _naming_own_files() -> Iterator[None]:
    """Turn an exception that passed through a component of the user's own into an error that names its file and line."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        own = [Path(str(module.__file__)) for name, module in [*sys.modules.items()] if name.startswith(OWN_MODULE)]
        for path in own:
            if line := line_in(path, error):
                raise RecipeError(f"{path.name} line {line}: {type(error).__name__}: {error}; correct the file") from error
        raise


def accept(recipe: Recipe, run: RunDir, stage_path: str, because: str) -> list[tuple[str, Any, Any]]:
    """Keep the finished work at `stage_path` under the recipe's identity; the difference and the reason are recorded beside it."""
    planned = {stage.path: stage for stage in plan(recipe)}
    if stage_path not in planned:
        raise InputError(f"the recipe plans no stage {stage_path!r}{suggest(stage_path, planned)}")
    if run.record(stage_path) is None:
        raise InputError(f"{run.stage_dir(stage_path)} is not finished; only finished work can be accepted")
    with locks.hold(run.path):
        launch, record = run.launch(stage_path), run.record(stage_path)
        assert launch is not None
        assert record is not None
        found = difference(launch.stage, planned[stage_path])
        if not found:
            raise InputError(f"{stage_path} already has the recipe's identity; nothing to accept")
        entry = Accepted(fingerprint=launch.stage.fingerprint, difference=found, because=because)
        kept = launch.model_copy(update={"stage": planned[stage_path], "accepted": [*launch.accepted, entry]})
        folder = run.stage_dir(stage_path)
        write_atomic(folder / DONE_FILE, dump(record.model_copy(update={"fingerprint": planned[stage_path].fingerprint})))
        write_atomic(folder / STAGE_FILE, dump(kept))
    return found


def verify(run: RunDir) -> tuple[list[Damage], list[str], int]:
    """Re-hash every finished stage's outputs: (damage, files absent because they are not committed, files checked)."""
    damage: list[Damage] = []
    absent: list[str] = []
    checked = 0
    for path in run.stages():
        record, launch = run.record(path), run.launch(path)
        if record is None or launch is None:
            damage.append(Damage(path, "not finished"))
            continue
        if record.fingerprint != launch.stage.fingerprint:
            damage.append(Damage(path, "done.json and stage.json disagree about the fingerprint"))
        damage += _input_damage(run, launch)
        for name, output in record.outputs.items():
            file = run.stage_dir(path) / name
            if not file.exists():
                absent.append(f"{path}/{name}")
                continue
            checked += 1
            if hash_file(file) != output:
                damage.append(Damage(f"{path}/{name}", "its bytes differ from the recorded sha256"))
    return damage, absent, checked


def _input_damage(run: RunDir, launch: Launch) -> list[Damage]:
    damage = []
    for role, path in launch.stage.inputs.items():
        record = run.record(path)
        if record is None or record.content != launch.input_contents.get(role, record.content):
            damage.append(Damage(launch.stage.path, f"was made from other bytes of {path} than those there now"))
    return damage


def _selected(stages: Sequence[Stage], only: str | None) -> list[Stage]:
    selected = [stage for stage in stages if only is None or fnmatch.fnmatch(stage.path, only)]
    if not selected:
        raise InputError(f"--only {only!r} matches no stage{suggest(str(only), [stage.path for stage in stages])}")
    return selected


def _refuse_stale(recipe: Recipe, run: RunDir) -> None:
    stale = [found.stage for found in survey(recipe, run) if found.state == "stale"]
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
        'keep a stage with `harness accept RECIPE STAGE --because "..."`; or remove its directory to make it again'
    )


def _refuse_unready(stages: Sequence[Stage], run: RunDir) -> None:
    """Each stage's inputs must be finished or made before it in this run."""
    coming = {stage.path for stage in stages}
    for stage in stages:
        missing = [path for path in stage.inputs.values() if path not in coming and run.record(path) is None]
        if missing:
            raise InputError(f"{stage.path} needs {' and '.join(missing)}, not finished yet; run that first (--only takes a glob)")


def _launch(stage: Stage, run: RunDir, machine: Machine, processes: Processes) -> float:
    """Run one stage's process to its end and write its record; return its seconds."""
    directory = run.stage_dir(stage.path)
    python = _interpreter(stage, machine)
    run.begin(stage, machine, {**provenance.collect(), **_provenance_in(python)})
    began = time.monotonic()

    def started(pid: int) -> None:
        locks.name_stage(processes.lock, stage.path, pid)

    try:
        if _forks(stage, machine, python):
            ended = processes.fork(directory, started)
        else:
            ended = processes.run(_command(stage, machine, python, directory), started)
    except KeyboardInterrupt:
        raise StageError(f"{stage.path} was interrupted; the same command continues it") from None
    if ended.code != 0:
        raise StageError(_failure(stage, ended.code))
    seconds = time.monotonic() - began
    run.finish(stage, seconds, ended.peak_memory_mb)
    return seconds


def _env(machine: Machine) -> dict[str, str]:
    """The stages' environment, the machine's own variables last. Our own progress lines stand in for the libraries' bars."""
    return {**os.environ, "TQDM_DISABLE": "1", **_threads(machine), **machine.env}


def _threads(machine: Machine) -> dict[str, str]:
    """The machine's threads as torch reads them when it is imported."""
    return {} if machine.num_threads is None else {"OMP_NUM_THREADS": str(machine.num_threads)}


def _forks(stage: Stage, machine: Machine, python: str) -> bool:
    """Whether the stage needs nothing but this interpreter, on a machine that forks its stages."""
    return machine.fork_stages and python == sys.executable and (stage.kind != "train" or machine.launcher == ("{python}",))


def _command(stage: Stage, machine: Machine, python: str, directory: Path) -> list[str]:
    launcher = machine.launcher if stage.kind == "train" else ("{python}",)
    return [*(part.format(python=python) for part in launcher), "-m", "harness", "stage", str(directory)]


def _interpreter(stage: Stage, machine: Machine) -> str:
    """The Python that runs the stage: the machine's for its kind, else the one that runs this."""
    named = {str(kind): path for kind, path in machine.python.items()}.get(stage.kind)
    if named is None:
        return sys.executable
    path = Path(named).expanduser()
    if not path.is_file():
        raise MachineError(f"machine {machine.name}: its python for {stage.kind} stages is {named}, which is no file; make it first")
    return str(path)


def _provenance_in(python: str) -> dict[str, Any]:
    """Python and package versions in another interpreter, which must have harness; nothing for our own."""
    if python == sys.executable:
        return {}
    asked = "import json, platform; from harness.runs.provenance import versions as v; print(json.dumps([platform.python_version(), v()]))"
    done = subprocess.run([python, "-c", asked], capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MachineError(f"{python} cannot import harness ({reason}); install it there: {python} -m pip install -e .")
    version, packages = json.loads(done.stdout)
    return {"python": version, "versions": packages}


def _failure(stage: Stage, code: int) -> str:
    if code == USER_ERROR_EXIT:
        return f"{stage.path} stopped; what it had finished is kept, and the same command continues it"
    if code == -signal.SIGKILL:
        return f"{stage.path} was killed (signal 9): out of memory, or by hand; a smaller batch in the machine file needs less memory"
    if code < 0:
        return f"{stage.path} was ended by signal {-code} ({signal.strsignal(-code)}); the same command continues it"
    return f"{stage.path} ended with exit code {code} (its traceback is above); this is a defect unless the machine failed"
