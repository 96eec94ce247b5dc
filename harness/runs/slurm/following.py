"""The stages of one command as jobs: submitted where they are missing, then followed until none is left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from harness.artifact import RunDir, Stage
from harness.errors import MachineError, StageError
from harness.machine import Machine
from harness.runs.launches import Announce
from harness.runs.slurm import queue, submission
from harness.runs.slurm.queue import JOBS, Job

EVERY_SECONDS = 10.0
"""Between two looks at the queue."""


class Jobs:
    """The stages of one command as jobs: submitted, then followed until none of them is in the queue."""

    def __init__(self, stages: Sequence[Stage], run: RunDir, machine: Machine, announce: Announce) -> None:
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
        submission.refuse_without_slurm()
        found, new = queue.queued(self.run_dir), set[str]()
        for stage in self.stages:
            if self.run_dir.state(stage) == "done":
                self.run_dir.checked_inputs(stage)
                self.run_dir.checked_content(stage.path)
                self.announce(f"{self.titles[stage.path]}: done earlier")
                continue
            job, array = found.get(stage.path), found.get(queue.array_of(stage.path))
            if job and job.state == "PENDING" and not new.isdisjoint(stage.inputs.values()):
                queue.cancel_jobs([one for one in (job, array) if one])
                job = array = None
            if job is None:
                job = self._submit(stage, array)
                new.add(stage.path)
            self.jobs[stage.path] = job
            self.announce(f"{self.titles[stage.path]}: {job}")

    def _submit(self, stage: Stage, array: Job | None) -> Job:
        """The stage's new job, after its array, a new one where `array` is None."""
        after = [self.jobs[path].number for path in stage.inputs.values() if path in self.jobs]
        number = None
        if submission.has_array(stage, self.machine):
            number = array.number if array else submission.submit_array(self.run_dir, stage, self.machine, after)
        reason = f"submitted after array {number}" if number else "submitted"
        return Job(submission.submit(self.run_dir, stage, self.machine, after, number), "PENDING", reason)

    def follow(self) -> list[str]:
        """Say what becomes of the jobs until none is left; returns the stages whose job failed, without those that waited for them."""
        left, shown, missed = {stage.path: stage for stage in self.stages if stage.path in self.jobs}, dict(self.jobs), set[str]()
        failed: list[str] = []
        while left:
            time.sleep(EVERY_SECONDS)
            found = self._queue()
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

    def _queue(self) -> dict[str, Job] | None:
        """The queue, or None while Slurm does not answer."""
        try:
            return queue.queued(self.run_dir)
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


def _end_of(run: RunDir, stage: Stage, job: Job) -> str:
    """In words: how a job ended, as far as Slurm still knows, and the last line of its log: ours, where submitit says more after it."""
    with contextlib.suppress(MachineError):
        known = queue.ask("squeue", "--noheader", "--states=all", f"--jobs={job.number}", "--format=%T|%r")
        job = Job(job.number, *known.strip().split("|", 1))
    log = run.path / JOBS / stage.path / f"{job.number}_0_log.err"
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = ["".join(c for c in line if c.isprintable()) for line in text.split("\n") if line.strip()] or ["nothing"]
    last = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1])
    return f"{job}; its log {log} ends: {last}"
