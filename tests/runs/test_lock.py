"""One run directory, one run."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.errors import BusyError
from harness.runs.lock import hold, name_stages

HOLDER = """
import subprocess, sys
from pathlib import Path
from harness.runs.lock import hold, name_stages
with hold(Path(sys.argv[1])) as lock:
    stage = subprocess.Popen([sys.executable, "-c", "input()"], pass_fds=(lock,))
    name_stages(lock, {"iter0/train": stage.pid})
    print(stage.pid, flush=True)
    input()
"""


def start_holder(folder: Path) -> tuple["subprocess.Popen[str]", int]:
    """A process that holds `folder`, and the pid of the child it started as the runner starts a stage."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def freed(folder: Path) -> bool:
    """Whether the lock can be had within 10 s."""
    for _ in range(200):
        try:
            with hold(folder):
                return True
        except BusyError:
            time.sleep(0.05)
    return False


def test_second_run_is_refused_until_the_orphaned_stage_ends(tmp_path: Path) -> None:
    """Two runs never write to one directory, nor does one beside a stage whose runner was killed. The message names both processes."""
    process, stage = start_holder(tmp_path)
    both = f"in use by pid {process.pid} on .* with stage iter0/train, pid {stage}; wait for it or stop it"
    with pytest.raises(BusyError, match=both), hold(tmp_path):
        pass
    process.kill()
    process.wait()
    left = rf"what a killed run \(pid {process.pid}\) left: stage iter0/train, pid {stage}; wait for it or stop it"
    with pytest.raises(BusyError, match=left), hold(tmp_path):
        pass
    assert process.stdin is not None
    process.stdin.close()  # the orphan's input ends, and so does the orphan
    assert freed(tmp_path)


def test_the_lock_names_its_holder(tmp_path: Path) -> None:
    """The stages that run replace those that ran before."""
    with hold(tmp_path) as lock:
        name_stages(lock, {"iter0/generate": 12345})
        name_stages(lock, {"iter0/train": 1, "sft/eval/mt_bench": 2})
    held = (tmp_path / ".lock").read_text().strip()
    assert held.startswith(f"pid {os.getpid()} on ")
    assert held.endswith(" with stage iter0/train, pid 1 with stage sft/eval/mt_bench, pid 2")
