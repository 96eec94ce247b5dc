"""A run's jobs in Slurm's queue, found by their names."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from typing import NamedTuple

from harness.artifact import RunDir
from harness.errors import BusyError, MachineError
from harness.files import digest

JOBS = "jobs"
"""The folder of a run with submitit's files and the logs."""


class Job(NamedTuple):
    """A stage's job that has not ended: its number, Slurm's word for its state, and why it waits or where it runs."""

    number: str
    state: str
    reason: str

    def __str__(self) -> str:
        return f"job {self.number} {self.state.lower()} ({self.reason})"


def queued(run: RunDir) -> dict[str, Job]:
    """{stage path: its job} of the run's jobs that have not ended; none where nothing was submitted, or Slurm is not installed.

    An array is one job under its own number, running as soon as one of its tasks is.
    """
    if not (run.path / JOBS).is_dir() or shutil.which("squeue") is None:
        return {}
    ending = job_name(run, "")
    found = dict[str, Job]()
    for line in ask("squeue", "--me", "--noheader", "--format=%i|%T|%R|%j").splitlines():
        number, state, reason, name = line.split("|", 3)
        path = name.removesuffix(ending)
        if name.endswith(ending) and (path not in found or state == "RUNNING"):
            found[path] = Job(number.partition("_")[0], state, reason.strip("()"))
    return found


def job_name(run: RunDir, stage_path: str) -> str:
    """The name of a stage's jobs: this stage's of this directory, and no other's."""
    return f"{stage_path}@{run.path.resolve().name}-{digest(str(run.path.resolve()))[:8]}"


def array_of(stage_path: str) -> str:
    """What stands for the stage's path in the name of the array that shares its work."""
    return f"{stage_path}:array"


def cancel(run: RunDir) -> dict[str, Job]:
    """Cancel the run's jobs, waiting and running; returns them."""
    jobs = queued(run)
    cancel_jobs(jobs.values())
    return jobs


def cancel_jobs(jobs: Iterable[Job]) -> None:
    """Cancel these, where there are any."""
    numbers = [job.number for job in jobs]
    if numbers:
        ask("scancel", *numbers)


def refuse_queued(run: RunDir) -> None:
    """`BusyError` where jobs of the run are in the queue."""
    jobs = [f"{path} ({job})" for path, job in queued(run).items()]
    if jobs:
        raise BusyError(
            f"{run.path} has {len(jobs)} job(s) in Slurm's queue: {', '.join(jobs[:3])}; follow them with --machine of a Slurm machine, "
            "or end them with harness cancel"
        )


def ask(*command: str) -> str:
    """What a command of Slurm prints."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise MachineError(f"{command[0]} fails: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return done.stdout
