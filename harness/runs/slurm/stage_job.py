"""What a job does: one stage, or one share of a generation, from whatever state it finds."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from harness.artifact import LOG_FILE, STAGE_FILE, RunDir, Stage, read_recipe
from harness.contracts.run_files import names_below
from harness.contracts.unfinished import NOTES
from harness.errors import USER_ERROR_EXIT, HarnessError, InputError, MachineError, StaleError
from harness.machine import NOT_RECORDED, Machine, recorded
from harness.plan import plan
from harness.runs import launches
from harness.runs import lock as locks
from harness.runs.slurm.queue import JOBS
from harness.runs.stage_processes import Processes
from harness.stages.response_shards import Share

MAX_IDLE_RUNS = 3
"""Times that a job comes back from the queue although its stage has written nothing: its time limit is then too short to get anywhere."""
CARRIED = "HARNESS_ENV_"
"""Before the name of a variable of the machine's `env` whose value no file may show: Slurm hands it to the job, after a requeue too."""


class StageJob:
    """The body of a stage's job. It looks at the run when it starts, which may be hours later, by newer code, or for the second time.

    submitit keeps it in a file, so it holds of the machine's variables only what a record may show; `carried` holds the others.
    """

    def __init__(self, root: Path, stage_path: str, machine: Machine, share: Share | None = None) -> None:
        self.root, self.stage_path, self.machine = root, stage_path, recorded(machine).model_dump_json()
        self.share = share
        self.before, self.idle_runs = dict[str, int](), 0

    def __call__(self) -> None:
        # submitit only logs SIGCONT, and Slurm sends it right before the signal that asks for the queue. Where a library has a thread, that
        # may take both: this one, which answers for all, then sleeps on until the limit ends it
        signal.signal(signal.SIGCONT, signal.SIG_DFL)
        self.before = self._written()
        try:
            self._run(RunDir(self.root))
        except HarnessError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(USER_ERROR_EXIT)

    def checkpoint(self) -> Any:
        """What submitit is to run when the job comes back from the queue, while Slurm ends the stage's process; None: it shall not."""
        import submitit

        self.idle_runs = self.idle_runs + 1 if self._written() == self.before else 0
        if self.idle_runs < MAX_IDLE_RUNS:
            return submitit.helpers.DelayedSubmission(self)
        print(f"error: {self.stage_path} got no further in {MAX_IDLE_RUNS} runs; give it more `minutes` in its request", file=sys.stderr)
        return None

    def _written(self) -> dict[str, int]:
        """The files of the stage's directory and their sizes, without what every launch writes, as a training does its log again."""
        folder, sizes = self.root / self.stage_path, dict[str, int]()
        for name in names_below(folder):
            if name not in (STAGE_FILE, LOG_FILE) and not Path(name).match(NOTES):
                with contextlib.suppress(FileNotFoundError):  # the stage's own process may have renamed it
                    sizes[name] = (folder / name).stat().st_size
        return sizes

    def _run(self, run: RunDir) -> None:
        stage = {stage.path: stage for stage in plan(read_recipe(run.path, or_rehearsal=True))}.get(self.stage_path)
        if stage is None:
            raise InputError(f"the recipe of {run.path} has no stage {self.stage_path} any more; it changed since the job was submitted")
        state = run.state(stage)
        if state == "stale":
            raise StaleError(f"{self.stage_path} was made under another identity; harness reproduce shows the difference")
        if state == "done":
            return
        machine, folder = with_carried(Machine.model_validate_json(self.machine)), run.path / JOBS / stage.path
        if self.share is None:
            with locks.hold_here(folder) as lock, Processes(launches.environment(machine), lock) as processes:
                launches.launch(stage, run, machine, processes, lambda pid: None)
        else:
            self._run_share(stage, run, machine, folder, self.share)

    def _run_share(self, stage: Stage, run: RunDir, machine: Machine, folder: Path, share: Share) -> None:
        """Answer a share of the prompts; the stage's own job, which waits for all shares, answers what is missing and writes the record."""
        with locks.hold_here(folder, wait=True):
            launches.begin(stage, run, machine)
        environment = {**launches.environment(machine), **share.environment()}
        with locks.hold_here(folder / f"share{share.number}") as lock, Processes(environment, lock) as processes:
            launches.work(stage, run, machine, processes, lambda pid: None)


def carried(machine: Machine) -> dict[str, str]:
    """The variables that a job of the machine is submitted with, so that it has the values that `recorded` leaves out."""
    hidden = [name for name, value in recorded(machine).env.items() if value == NOT_RECORDED]
    return {f"{CARRIED}{name}": machine.env[name] for name in hidden}


def with_carried(machine: Machine) -> Machine:
    """The machine as it was submitted, inside its job. `MachineError` where a variable did not arrive."""
    values = {name: os.environ.get(f"{CARRIED}{name}") if value == NOT_RECORDED else value for name, value in machine.env.items()}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise MachineError(
            f"{' and '.join(missing)} of the env of machine {machine.name} did not reach the job, which has no variable of the command "
            "that submitted it; remove `export` from the request's options, and SBATCH_EXPORT"
        )
    return machine.model_copy(update={"env": values})
