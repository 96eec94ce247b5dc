"""Slurm played on this machine by submitit's local executor: `use(monkeypatch)` puts it in the place of a cluster, with fake stages.

What Slurm adds is added here: a job waits for those named in its dependency, `squeue` lists the jobs that have not ended, and `scancel`
ends them. Each job leaves NUMBER.began and NUMBER.ended ('ok' or 'failed') beside its log.
"""

from __future__ import annotations

import itertools
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import submitit
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

from harness.runs import launches
from harness.runs.slurm import following, queue, submission
from harness.runs.slurm.stage_job import StageJob
from tests import fake_stages

FAILED, OK = "failed", "ok"


class InOrder:
    """In the job's process: wait for the jobs before it, then do its stage as a fake."""

    def __init__(self, body: StageJob, marks: Path, after: list[Path]) -> None:
        self.body, self.marks, self.after = body, marks, after

    def checkpoint(self) -> Any:
        return submitit.helpers.DelayedSubmission(self)

    def __call__(self) -> None:
        while not all(path.exists() for path in self.after):
            time.sleep(0.02)
        if any(path.read_text() != OK for path in self.after):
            self.end(FAILED)
            return
        self.marks.with_suffix(".began").touch()
        launches._command, launches._forks = fake_stages._command, fake_stages._forks
        try:
            self.body()
        except SystemExit as ended:
            if ended.code != LOCAL_REQUEUE_RETURN_CODE:
                self.end(FAILED)
            raise
        self.end(OK)

    def end(self, how: str) -> None:
        self.marks.with_suffix(".new").write_text(how)
        self.marks.with_suffix(".new").rename(self.marks.with_suffix(".ended"))


class Submitted(NamedTuple):
    """A job that was submitted."""

    name: str
    marks: Path
    job: Any

    @property
    def is_queued(self) -> bool:
        return not self.marks.with_suffix(".ended").exists()

    @property
    def state(self) -> str:
        return "RUNNING" if self.marks.with_suffix(".began").exists() else "PENDING"

    @property
    def body(self) -> psutil.Process:
        """The process of the job's body."""
        return psutil.Process(self.job._process.pid).children()[0]

    def cancel(self) -> None:
        """End the job and all that it has started."""
        controller = psutil.Process(self.job._process.pid)
        for process in [controller, *controller.children(recursive=True)]:
            process.kill()
        self.job._process.wait()
        self.marks.with_suffix(".ended").write_text(FAILED)

    def requeue(self) -> None:
        """Tell the job that its time is over, and end its stage as Slurm does."""
        stages = self.body.children()
        self.body.send_signal(signal.SIGUSR2)
        for stage in stages:
            stage.kill()


class LocalSlurm:
    """Every job that was submitted, by its number."""

    def __init__(self) -> None:
        self.jobs: dict[str, Submitted] = {}
        self.counter = itertools.count(1)

    def executor(self, folder: Path) -> Executor:
        return Executor(self, folder)

    def of(self, stage_path: str) -> Submitted:
        """The last job of a stage."""
        return [job for job in self.jobs.values() if job.name.startswith(f"{stage_path}@")][-1]

    def ask(self, *command: str) -> str:
        """What the command of Slurm prints."""
        if command[0] == "scancel":
            for number in command[1:]:
                self.jobs[number].cancel()
            return ""
        if "--states=all" in command:
            return "FAILED|NonZeroExitCode\n"
        queue = {number: job for number, job in self.jobs.items() if job.is_queued}
        return "".join(f"{number}|{job.state}|(reason)|{job.name}\n" for number, job in queue.items())


class Executor:
    """As much of submitit's SlurmExecutor as harness uses."""

    def __init__(self, cluster: LocalSlurm, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.parameters: dict[str, Any] = {}

    def update_parameters(self, **parameters: Any) -> None:
        self.parameters = parameters

    def submit_array(self, bodies: Sequence[StageJob]) -> list[Any]:
        (body,) = bodies
        waits = [part.removeprefix("afterok:").split(":") for part in self.parameters["dependency"].split(",") if part != "singleton"]
        after = [self.cluster.jobs[number].marks.with_suffix(".ended") for numbers in waits for number in numbers]
        executor = submitit.LocalExecutor(self.folder)
        marks = self.folder / f"{next(self.cluster.counter)}.job"
        job = executor.submit(InOrder(body, marks, after))
        self.cluster.jobs[job.job_id] = Submitted(self.parameters["job_name"], marks, job)
        return [job]


def use(monkeypatch: pytest.MonkeyPatch) -> LocalSlurm:
    """Put it in the place of Slurm."""
    cluster, which = LocalSlurm(), shutil.which
    monkeypatch.setattr(submission, "_executor", cluster.executor)
    monkeypatch.setattr(queue, "ask", cluster.ask)
    monkeypatch.setattr(following, "EVERY_SECONDS", 0.05)
    monkeypatch.setattr(shutil, "which", lambda name: sys.executable if name in ("squeue", "sbatch") else which(name))
    return cluster
