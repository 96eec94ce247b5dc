"""The stages of one command launched: each in a process of its own, as many side by side as the machine has room for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from harness import machine as machines
from harness.artifact import Provenance, RunDir, Stage
from harness.errors import STOPPED_EXIT, USER_ERROR_EXIT, HarnessError, MachineError, StageError
from harness.machine import Machine
from harness.runs import lock as locks
from harness.runs import provenance, schedule
from harness.runs.stage_processes import Ended, Processes, Started

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""GNU's and Intel's OpenMP: threads that wait sleep. A machine's `env` may say otherwise."""
Announce = Callable[[str], None]


class Launches:
    """The stages of one command, each skipped or run when its turn comes."""

    def __init__(self, stages: Sequence[Stage], run: RunDir, machine: Machine, processes: Processes, announce: Announce) -> None:
        self.stages, self.run_dir, self.machine, self.processes, self.announce = stages, run, machine, processes, announce
        self.done_earlier = {stage.path for stage in stages if run.state(stage) == "done"}
        self.titles = {stage.path: f"[{number}/{len(stages)}] {stage.path}" for number, stage in enumerate(stages, 1)}
        self.pids: dict[str, int] = {}
        self.guard = threading.Lock()

    def run(self) -> int:
        """Run all that is not done; return how many stages ran. Raises `StageError` once nothing more can be done."""
        failures = schedule.run(self.stages, self.machine.slots, self.needs, self.work, self.processes.stop)
        paths = " and ".join(failure.stage.path for failure in failures)
        if self.processes.signals and failures:
            raise StageError(f"{paths} was interrupted; the same command continues it")
        if len(failures) > 1:
            raise StageError(f"{paths} failed; what was finished is kept, and the same command continues it")
        for failure in failures:
            raise failure.error
        return len(self.stages) - len(self.done_earlier)

    def needs(self, stage: Stage) -> int:
        """The slots a stage takes: one to find that it is done."""
        return 1 if stage.path in self.done_earlier else machines.slots_taken(self.machine, stage.kind)

    def work(self, stage: Stage, slots: tuple[int, ...]) -> None:
        """Skip or run one stage, and say what comes of it."""
        title = self.titles[stage.path]
        if stage.path in self.done_earlier:
            self.run_dir.checked_inputs(stage)
            self.run_dir.checked_content(stage.path)
            self.announce(f"{title}: done earlier")
            return
        self.processes.refuse_interrupted()
        self.announce(f"{title}: {'continues' if self.run_dir.state(stage) == 'partial' else 'starts'}")
        try:
            seconds = launch(stage, self.run_dir, _share(self.machine, stage, slots), self.processes, partial(self.name, stage))
        except HarnessError as error:
            if len(self.pids) > 1 and not self.processes.signals:  # it is said at the end too
                self.announce(f"{title}: {error}")
            raise
        finally:
            self.name(stage, None)
        self.announce(f"{title}: finished in {seconds:.1f} s")

    def name(self, stage: Stage, pid: int | None) -> None:
        """Keep the lock file's list of running stages."""
        with self.guard:
            self.pids.pop(stage.path, None)
            if pid is not None:
                self.pids[stage.path] = pid
            locks.name_stages(self.processes.lock, self.pids)


def _share(machine: Machine, stage: Stage, slots: Sequence[int]) -> Machine:
    """The machine as a stage sees it that has only some of its slots: their devices, and as many replicas as these hold."""
    if machine.device != "cuda" or len(slots) == machine.slots or stage.kind not in ("generate", "evaluate"):
        return machine
    devices = sorted({slot * machine.num_devices // max(machine.slots, machine.num_devices) for slot in slots})
    replicas = max(len(devices) // machine.tensor_parallel, 1)
    return machine.model_copy(update={"num_devices": len(devices), "num_replicas": replicas, "env": {**machine.env, **_visible(devices)}})


def _visible(numbers: Sequence[int]) -> dict[str, str]:
    """The CUDA devices with these numbers, of those that are visible here."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    devices = visible.split(",") if visible else [str(number) for number in range(max(numbers) + 1)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(devices[number] for number in numbers)}


def launch(stage: Stage, run: RunDir, machine: Machine, processes: Processes, started: Started) -> float:
    """Run one stage's process to its end and write its record; return its seconds."""
    begin(stage, run, machine)
    began = time.monotonic()
    ended = work(stage, run, machine, processes, started)
    seconds = time.monotonic() - began
    run.finish(stage, seconds, ended.peak_memory_mb)
    return seconds


def begin(stage: Stage, run: RunDir, machine: Machine) -> None:
    """Write what the stage's process reads, with where it is launched."""
    python = _interpreter(stage, machine)
    run.begin(stage, machine, {**provenance.collect(), **_provenance_in(python), "threads": threads_of(machine)})


def work(stage: Stage, run: RunDir, machine: Machine, processes: Processes, started: Started) -> Ended:
    """Run the process of a stage that has begun to its end. `StageError` where it fails, `InputError` where its inputs changed."""
    directory, python = run.stage_dir(stage.path), _interpreter(stage, machine)
    try:
        if _forks(stage, machine, python):
            ended = processes.fork(directory, started)
        else:
            ended = processes.run(_command(stage, machine, python, directory), started, machine.env)
    finally:
        run.refuse_changed_inputs(stage)
    if ended.code != 0:
        raise StageError(_failure(stage, ended.code))
    return ended


def environment(machine: Machine) -> dict[str, str]:
    """The stages' environment, the machine's own variables last. Our own progress lines stand in for the libraries' bars."""
    return {**os.environ, "TQDM_DISABLE": "1", **threads_of(machine), **machine.env}


def threads_of(machine: Machine) -> dict[str, str]:
    """The machine's threads as torch reads them when it is imported; those that wait sleep, and do not spin beside other work."""
    number = {} if machine.num_threads is None else {"OMP_NUM_THREADS": str(machine.num_threads)}
    return {**WAITING, **number, **{name: value for name, value in machine.env.items() if name in (*WAITING, "OMP_NUM_THREADS")}}


def _forks(stage: Stage, machine: Machine, python: str) -> bool:
    """Whether the stage needs nothing but this interpreter, on a machine that forks its stages."""
    return machine.fork_stages and python == sys.executable and machines.launcher(machine, stage.kind, python) == [python]


def _command(stage: Stage, machine: Machine, python: str, directory: Path) -> list[str]:
    return [*machines.launcher(machine, stage.kind, python), "-m", "harness", "stage", str(directory)]


def _interpreter(stage: Stage, machine: Machine) -> str:
    """The Python that runs the stage: the machine's for its kind, else the one that runs this."""
    named = {str(kind): path for kind, path in machine.python.items()}.get(stage.kind)
    if named is None:
        return sys.executable
    path = Path(named).expanduser()
    if not path.is_file():
        raise MachineError(f"machine {machine.name}: its python for {stage.kind} stages is {named}, which is no file; make it first")
    return str(path)


def _provenance_in(python: str) -> Provenance:
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
    if code in (USER_ERROR_EXIT, STOPPED_EXIT):
        return f"{stage.path} stopped; what it had finished is kept, and the same command continues it"
    if code == -signal.SIGKILL:
        return f"{stage.path} was killed (signal 9): out of memory, or by hand; a smaller batch in the machine file needs less memory"
    if code < 0:
        return f"{stage.path} was ended by signal {-code} ({signal.strsignal(-code)}); the same command continues it"
    return f"{stage.path} ended with exit code {code} (its traceback is above); this is a defect unless the machine failed"
