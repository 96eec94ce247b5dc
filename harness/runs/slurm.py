"""Stages as jobs of a Slurm cluster, submitted through submitit.

Slurm does the scheduling: a job waits for those that make its inputs (afterok) and for an earlier job of the same stage (singleton). One
that is preempted or reaches its time limit goes back to the queue, where its stage continues from its state. Nothing is kept but
RUN/jobs/STAGE, with submitit's files and the logs: which stages are in the queue is read from the jobs' names, so the same command finds
the jobs of one that was left or killed.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.artifact import STAGE_FILE, RunDir, Stage, read_recipe
from harness.errors import USER_ERROR_EXIT, BusyError, HarnessError, InputError, MachineError, StageError, StaleError, first_line, requires
from harness.files import digest
from harness.machine import Machine, Request
from harness.plan import plan
from harness.runs import launches
from harness.runs import lock as locks
from harness.runs.stage_processes import Processes

JOBS = "jobs"
EVERY_SECONDS = 10.0
"""Between two looks at the queue."""
MAX_TIMEOUTS = 1000
MAX_IDLE_RUNS = 3
"""Times that a job comes back from the queue although its stage has written nothing: its time limit is then too short to get anywhere."""
SIGNAL_SECONDS = 120
"""How long before its time limit a job asks to be queued again."""


class Job(NamedTuple):
    """A stage's job that has not ended: its number, Slurm's word for its state, and why it waits or where it runs."""

    number: str
    state: str
    reason: str

    def __str__(self) -> str:
        return f"job {self.number} {self.state.lower()} ({self.reason})"


def queued(run: RunDir) -> dict[str, Job]:
    """{stage path: its job} of the run's jobs that have not ended; none where nothing was submitted, or Slurm is not installed."""
    if not (run.path / JOBS).is_dir() or shutil.which("squeue") is None:
        return {}
    ending = job_name(run, "")
    found = {}
    for line in _ask("squeue", "--me", "--noheader", "--format=%i|%T|%R|%j").splitlines():
        number, state, reason, name = line.split("|", 3)
        if name.endswith(ending):
            found[name.removesuffix(ending)] = Job(number, state, reason.strip("()"))
    return found


def job_name(run: RunDir, stage_path: str) -> str:
    """The name of a stage's jobs: this stage's of this directory, and no other's."""
    return f"{stage_path}@{run.path.resolve().name}-{digest(str(run.path.resolve()))[:8]}"


def cancel(run: RunDir) -> dict[str, Job]:
    """Cancel the run's jobs, waiting and running; returns them."""
    jobs = queued(run)
    _cancel(list(jobs.values()))
    return jobs


def refuse_queued(run: RunDir) -> None:
    """`BusyError` where jobs of the run are in the queue."""
    jobs = [f"{path} ({job})" for path, job in queued(run).items()]
    if jobs:
        raise BusyError(
            f"{run.path} has {len(jobs)} job(s) in Slurm's queue: {', '.join(jobs[:3])}; follow them with --machine of a Slurm machine, "
            "or end them with harness cancel"
        )


class StageJob:
    """The body of a stage's job. It looks at the run when it starts, which may be hours later, by newer code, or for the second time."""

    def __init__(self, root: Path, stage_path: str, machine: Machine) -> None:
        self.root, self.stage_path, self.machine = root, stage_path, machine.model_dump_json()
        self.before, self.idle_runs = dict[str, int](), 0

    def __call__(self) -> None:
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
        print(f"error: {self.stage_path} wrote nothing in {MAX_IDLE_RUNS} runs; give it more `minutes` in its request", file=sys.stderr)
        return None

    def _written(self) -> dict[str, int]:
        """The files of the stage's directory and their sizes, without what a launch writes."""
        files = [path for path in (self.root / self.stage_path).rglob("*") if path.is_file() and path.name != STAGE_FILE]
        return {str(path): path.stat().st_size for path in files}

    def _run(self, run: RunDir) -> None:
        stage = {stage.path: stage for stage in plan(read_recipe(run.path, or_rehearsal=True))}.get(self.stage_path)
        if stage is None:
            raise InputError(f"the recipe of {run.path} has no stage {self.stage_path} any more; it changed since the job was submitted")
        state = run.state(stage)
        if state == "stale":
            raise StaleError(f"{self.stage_path} was made under another identity; harness reproduce shows the difference")
        if state == "done":
            return
        machine, folder = Machine.model_validate_json(self.machine), run.path / JOBS / stage.path
        with locks.hold_here(folder) as lock, Processes(launches.environment(machine), lock) as processes:
            launches.launch(stage, run, machine, processes, lambda pid: None)


class Jobs:
    """The stages of one command as jobs: submitted, then followed until none of them is in the queue."""

    def __init__(self, stages: Sequence[Stage], run: RunDir, machine: Machine, announce: launches.Announce) -> None:
        self.stages, self.run_dir, self.machine, self.announce = stages, run, machine, announce
        self.titles = {stage.path: f"[{number}/{len(stages)}] {stage.path}" for number, stage in enumerate(stages, 1)}
        self.jobs: dict[str, Job] = {}

    def run(self) -> int:
        """Submit what is neither done nor in the queue, and follow; return how many stages ran. Raises `StageError` where a job failed."""
        (self.run_dir.path / JOBS).mkdir(exist_ok=True)
        try:
            self.submit()
            failed = self.follow()
        except KeyboardInterrupt:
            raise StageError(
                "no longer followed; jobs in the queue stay there. The same command follows them again, harness status shows them, "
                "harness cancel ends them"
            ) from None
        if failed:
            raise StageError(f"{' and '.join(failed)} failed; what was finished is kept, and the same command continues it")
        return len(self.jobs)

    def submit(self) -> None:
        """A job for each stage that is not done and has none. One that waits for a job that is no more is replaced."""
        _refuse_without_slurm()
        found, new = queued(self.run_dir), set[str]()
        for stage in self.stages:
            if self.run_dir.state(stage) == "done":
                self.run_dir.checked_inputs(stage)
                self.run_dir.checked_content(stage.path)
                self.announce(f"{self.titles[stage.path]}: done earlier")
                continue
            job = found.get(stage.path)
            if job and job.state == "PENDING" and not new.isdisjoint(stage.inputs.values()):
                _cancel([job])
                job = None
            if job is None:
                after = [self.jobs[path].number for path in stage.inputs.values() if path in self.jobs]
                job = Job(_submit(self.run_dir, stage, self.machine, after), "PENDING", "submitted")
                new.add(stage.path)
            self.jobs[stage.path] = job
            self.announce(f"{self.titles[stage.path]}: {job}")

    def follow(self) -> list[str]:
        """Say what becomes of the jobs until none is left; returns the stages whose job failed, without those that waited for them."""
        left, shown, missed = {stage.path: stage for stage in self.stages if stage.path in self.jobs}, dict(self.jobs), set[str]()
        failed: list[str] = []
        while left:
            time.sleep(EVERY_SECONDS)
            found = self._queued()
            for path, stage in list(left.items()):
                job = None if found is None else found.get(path)
                if self.run_dir.state(stage) == "done" and (record := self.run_dir.record(path)):
                    self.announce(f"{self.titles[path]}: finished in {record.seconds:.1f} s")
                    del left[path]
                elif job is not None:
                    if job.state != shown[path].state:
                        self.announce(f"{self.titles[path]}: {job}")
                    shown[path] = job
                elif found is not None and path not in missed:
                    missed.add(path)  # a shared file system may show the record later than the queue forgets the job
                elif found is not None:
                    del left[path]
                    failed += self._failure(stage, failed)
        return failed

    def _queued(self) -> dict[str, Job] | None:
        """The queue, or None while Slurm does not answer."""
        try:
            return queued(self.run_dir)
        except MachineError as error:
            self.announce(f"{error}; asking again")
            return None

    def _failure(self, stage: Stage, failed: Sequence[str]) -> list[str]:
        """Say why a job has left the queue without finishing its stage; the stage, unless only its inputs are missing."""
        missing = [path for path in stage.inputs.values() if path in self.jobs and self.run_dir.record(path) is None]
        if missing:
            self.announce(f"{self.titles[stage.path]}: not run, for want of {' and '.join(missing)}")
            return []
        self.announce(f"{self.titles[stage.path]}: {_end_of(self.run_dir, stage, self.jobs[stage.path])}")
        return [stage.path]


def request_of(stage: Stage, machine: Machine) -> Request:
    """What the stage's job asks for."""
    request = {str(kind): request for kind, request in machine.slurm_of.items()}.get(stage.kind, machine.slurm)
    assert request is not None
    return request


def within(machine: Machine, stage: Stage, request: Request) -> Machine:
    """The machine as a stage sees it from inside its job: with as many devices and replicas as the job has GPUs."""
    num = request.gpus * request.nodes
    if stage.kind == "train" or num in (0, machine.num_devices):
        return machine
    return machine.model_copy(update={"num_devices": num, "num_replicas": max(num // machine.tensor_parallel, 1)})


def _submit(run: RunDir, stage: Stage, machine: Machine, after: Sequence[str]) -> str:
    """The number of a new job for `stage`, which waits for the jobs `after`."""
    import submitit

    request, executor = request_of(stage, machine), _executor(run.path / JOBS / stage.path)
    executor.update_parameters(**_parameters(job_name(run, stage.path), request, after))
    body = StageJob(run.path.resolve(), stage.path, within(machine, stage, request))
    try:
        # a job's own variables would be options of the jobs it submits
        with submitit.helpers.clean_env() if "SLURM_JOB_ID" in os.environ else contextlib.nullcontext():
            return str(executor.submit(body).job_id)
    except submitit.core.utils.FailedJobError as error:
        raise MachineError(f"Slurm refuses the job of {stage.path}: {first_line(error)}; correct the request in the machine file") from None


def _executor(folder: Path) -> Any:
    """submitit's, whose Python takes the place of the batch script's shell: so Slurm's signals reach it, and a launcher may call srun."""
    import submitit

    return submitit.SlurmExecutor(folder.resolve(), max_num_timeout=MAX_TIMEOUTS, python=f"exec {shlex.quote(sys.executable)}")


def _parameters(name: str, request: Request, after: Sequence[str]) -> dict[str, Any]:
    """The options of sbatch, as submitit names them."""
    seconds = min(SIGNAL_SECONDS, request.minutes * 60 // 4)
    more: dict[str, Any] = {"signal": f"B:USR2@{seconds}", "requeue": True, "kill-on-invalid-dep": "yes", **request.options}
    memory = None if request.memory_gb is None else f"{request.memory_gb * 1000:.0f}M"
    optional = {"partition": request.partition, "account": request.account, "gpus_per_node": request.gpus or None, "mem": memory}
    return {
        "job_name": name,
        "time": request.minutes,
        "nodes": request.nodes,
        "ntasks_per_node": 1,
        "cpus_per_task": request.cpus,
        **{option: value for option, value in optional.items() if value is not None},
        "dependency": ",".join([*([f"afterok:{':'.join(after)}"] if after else []), "singleton"]),
        "use_srun": False,
        "additional_parameters": more,
    }


def _end_of(run: RunDir, stage: Stage, job: Job) -> str:
    """In words: how a job ended, as far as Slurm still knows, and the last line of its log."""
    with contextlib.suppress(MachineError):
        job = Job(job.number, *_ask("squeue", "--noheader", "--states=all", f"--jobs={job.number}", "--format=%T|%r").strip().split("|", 1))
    log = run.path / JOBS / stage.path / f"{job.number}_0_log.err"
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    last = next(("".join(c for c in line if c.isprintable()) for line in reversed(lines) if line.strip()), "nothing")
    return f"{job}; its log {log} ends: {last}"


def _refuse_without_slurm() -> None:
    with requires("slurm", "submitit"):
        import submitit  # noqa: F401
    if shutil.which("sbatch") is None:
        raise MachineError("this machine's stages go through Slurm, but there is no sbatch here; log in there, or use another --machine")


def _cancel(jobs: Sequence[Job]) -> None:
    if jobs:
        _ask("scancel", *(job.number for job in jobs))


def _ask(*command: str) -> str:
    """What a command of Slurm prints."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise MachineError(f"{command[0]} fails: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return done.stdout
