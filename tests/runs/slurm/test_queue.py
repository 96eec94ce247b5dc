"""A run's jobs in the queue are known by their names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.artifact import RunDir
from harness.runs.slurm import queue
from harness.runs.slurm.queue import Job


def test_names_tell_directories_apart(tmp_path: Path) -> None:
    """Two runs of one name in two places do not take each other's jobs for their own."""
    names = {queue.job_name(RunDir(tmp_path / where / "small"), "iter0/train") for where in ("a", "b")}
    assert len(names) == 2
    assert all(name.startswith("iter0/train@small-") for name in names)


def test_queue_is_not_asked_without_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that submitted nothing costs no question, and a copy of one on a host without Slurm has no jobs."""
    monkeypatch.setattr(queue, "ask", lambda *command: json.loads("not asked"))
    assert queue.queued(RunDir(tmp_path)) == {}
    (tmp_path / "jobs").mkdir()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert queue.queued(RunDir(tmp_path)) == {}


def test_an_array_is_one_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tasks, some waiting in one line and some running, are one entry under the array's number, which cancels all of them."""
    (tmp_path / "jobs").mkdir()
    name = queue.job_name(RunDir(tmp_path), queue.array_of("iter0/generate"))
    lines = [f"7_[2-3]|PENDING|(Resources)|{name}", f"7_1|RUNNING|node1|{name}", "8|RUNNING|node1|another"]
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(queue, "ask", lambda *command: asked.append(command) or "\n".join(lines))
    monkeypatch.setattr(shutil, "which", lambda name: name)
    assert queue.cancel(RunDir(tmp_path)) == {"iter0/generate:array": Job("7", "RUNNING", "node1")}
    assert asked[-1] == ("scancel", "7")
