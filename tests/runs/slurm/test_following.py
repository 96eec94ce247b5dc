"""Stages as jobs: the same records, jobs that are found again, and nothing done twice. submitit's local executor plays the cluster."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.artifact import RunDir
from harness.cli import listings
from harness.errors import BusyError, MachineError, StageError
from harness.runs import runner
from harness.runs.lock import CLAIM_FILE
from harness.runs.slurm import following, queue
from harness.runs.slurm.queue import Job
from tests import fake_stages
from tests.fake_stages import launched
from tests.local_slurm import LocalSlurm
from tests.runs.slurm import CLUSTER, CPU, PATHS, RECIPE, STAGES


def reproduce(run: RunDir) -> list[str]:
    """Run through the cluster, and return what was announced."""
    lines: list[str] = []
    runner.reproduce(RECIPE, run, CLUSTER, None, lines.append)
    return lines


def contents(run: RunDir) -> dict[str, str]:
    records = {path: run.record(path) for path in run.stages()}
    return {path: record.content for path, record in records.items() if record}


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 600  # of a machine that others use
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


def leave_when(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at the first look at the queue after `path` is there."""

    def sleep(seconds: float) -> None:
        wait_for(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(following, "time", SimpleNamespace(sleep=sleep))


def test_jobs_leave_what_a_local_run_leaves(cluster: LocalSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage is one job, submitted after those it waits for, and every record has the content of a local run's."""
    lines = reproduce(RunDir(tmp_path / "jobs"))
    assert sorted(launched(tmp_path / "jobs")) == sorted(PATHS)
    assert [line for line in lines if "finished in" in line and "iter0/train" in line]
    fake_stages.use(monkeypatch)
    runner.reproduce(RECIPE, RunDir(tmp_path / "here"), CPU, None, lambda _: None)
    assert contents(RunDir(tmp_path / "jobs")) == contents(RunDir(tmp_path / "here"))
    assert all(line.endswith("done earlier") for line in reproduce(RunDir(tmp_path / "jobs")))


def test_left_run_finds_its_jobs(cluster: LocalSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C leaves the jobs in the queue; status shows them, a local run is refused, and the same command follows the same jobs."""
    run = RunDir(tmp_path)
    monkeypatch.setenv("FAKE_STAGES", "iter0/train wait")
    with monkeypatch.context() as patch:
        leave_when(tmp_path / "iter0/train/waits.tmp", patch)
        with pytest.raises(StageError, match="no longer followed; jobs in the queue stay there"):
            reproduce(run)
    number = queue.queued(run)["iter0/train"].number
    rows = {row["path"]: row["job"] for row in listings.status_list(RECIPE, run)}
    assert rows["iter0/train"] == f"job {number} running (reason)"
    assert rows["sft/model"] is None
    with pytest.raises(BusyError, match=r"job\(s\) in Slurm's queue: iter0/train \(job"):
        runner.reproduce(RECIPE, run, CPU, None, lambda _: None)
    submitted = len(cluster.jobs)
    with monkeypatch.context() as patch:
        leave_when(tmp_path, patch)
        with pytest.raises(StageError, match="no longer followed"):
            reproduce(run)
    assert len(cluster.jobs) == submitted == len(PATHS)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_closed_terminal_gives_the_run_back(
    number: signal.Signals, cluster: LocalSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: by a closed terminal or SIGTERM following ends as by Ctrl-C: no claim is left that would lock other login nodes out."""
    monkeypatch.setenv("FAKE_STAGES", "iter0/train wait")
    before = signal.getsignal(number)
    monkeypatch.setattr(following, "time", SimpleNamespace(sleep=lambda _: os.kill(os.getpid(), number)))
    with pytest.raises(StageError, match="no longer followed; jobs in the queue stay there"):
        reproduce(RunDir(tmp_path))
    assert not (tmp_path / CLAIM_FILE).exists()
    assert signal.getsignal(number) == before


def test_cancelled_jobs_are_submitted_anew(cluster: LocalSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelling keeps what is finished; the same command then submits the rest, and no finished stage runs twice."""
    run = RunDir(tmp_path)
    monkeypatch.setenv("FAKE_STAGES", "iter0/train wait")
    with monkeypatch.context() as patch:
        leave_when(tmp_path / "iter0/train/waits.tmp", patch)
        with pytest.raises(StageError):
            reproduce(run)
    finished = set(contents(run))
    assert queue.cancel(run).keys() == set(PATHS) - finished
    assert queue.queued(run) == {}
    monkeypatch.delenv("FAKE_STAGES")
    reproduce(run)
    assert {path: launched(tmp_path).count(path) for path in finished} == dict.fromkeys(finished, 1)
    assert set(contents(run)) == set(PATHS)


def test_failed_job_is_told_with_the_end_of_its_log(cluster: LocalSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error is named once, the jobs that waited for it are not blamed, and the same command continues."""
    run, lines = RunDir(tmp_path), list[str]()
    monkeypatch.setenv("FAKE_STAGES", "iter0/train exit 70")
    with pytest.raises(StageError, match=r"^iter0/train failed; what was finished is kept"):
        runner.reproduce(RECIPE, run, CLUSTER, None, lines.append)
    assert [line for line in lines if "iter0/train: job" in line and "ends: error: iter0/train ended with exit code 70" in line]
    assert [line for line in lines if line.endswith("iter0/eval/distribution: not run, for want of iter0/train")]
    monkeypatch.delenv("FAKE_STAGES")
    reproduce(run)
    assert {path: launched(tmp_path).count(path) for path in PATHS} == {**dict.fromkeys(PATHS, 1), "iter0/train": 2}


def test_job_at_its_time_limit_comes_back_and_continues(cluster: LocalSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal before the limit sends the job to the queue again; its stage is launched a second time there, under one number."""
    monkeypatch.setenv("FAKE_STAGES", "iter0/train once")
    with monkeypatch.context() as patch:
        leave_when(tmp_path / "iter0/train/waits.tmp", patch)
        with pytest.raises(StageError):
            reproduce(RunDir(tmp_path))
    cluster.of("iter0/train").requeue()
    reproduce(RunDir(tmp_path))
    assert {path: launched(tmp_path).count(path) for path in PATHS} == {**dict.fromkeys(PATHS, 1), "iter0/train": 2}
    assert len(cluster.jobs) == len(PATHS)


def test_without_slurm_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Slurm machine on a host without Slurm is one line, before anything is written but the run's own files."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MachineError, match="there is no sbatch here"):
        reproduce(RunDir(tmp_path))


def test_a_log_s_own_error_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where submitit's traceback follows our line, ours is shown; without one the last line is."""
    monkeypatch.setattr(queue, "ask", lambda *command: "FAILED|NonZeroExitCode\n")
    log = tmp_path / "jobs/iter0/train/7_0_log.err"
    log.parent.mkdir(parents=True)
    for text, told in (
        (
            "a\nerror: iter0/train got no further in 3 runs\nsubmitit.UncompletedJobError: not requeued\n",
            "error: iter0/train got no further",
        ),
        ("a\nsrun: error: node1: task 0: Killed\n\n", "srun: error: node1: task 0: Killed"),
        ("", "nothing"),
    ):
        log.write_text(text)
        end = following._end_of(RunDir(tmp_path), STAGES["iter0/train"], Job("7", "RUNNING", ""))
        assert f"job 7 failed (NonZeroExitCode); its log {log} ends: {told}" in end
