"""The launcher ends as its processes did, and passes SIGTERM on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import STOPPED_EXIT
from tests import ROOT

RANK = "import os, signal, sys, time\nrank = int(os.environ['RANK'])\n"
WAITS = "time.sleep(100)"


def start(folder: Path, body: str) -> subprocess.Popen[str]:
    """Two ranks that run `body`."""
    (folder / "rank.py").write_text(RANK + body)
    command = [sys.executable, "-m", "harness.training.launch", "--standalone", "--nproc-per-node=2", str(folder / "rank.py")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("pass", 0),
        ("sys.exit(1)", 1),
        (f"sys.exit(70) if rank else {WAITS}", 70),
        (f"os.kill(os.getpid(), signal.SIGKILL) if rank else {WAITS}", -signal.SIGKILL),
    ],
    ids=["well", "a user's error", "a defect", "out of memory"],
)
def test_the_launcher_ends_as_its_ranks(body: str, code: int, tmp_path: Path) -> None:
    """Promise: what torchrun calls 1 whatever happened is the rank's exit code, or its signal."""
    process = start(tmp_path, body)
    process.communicate(timeout=120)
    assert process.returncode == code


def test_sigterm_reaches_the_ranks_and_waits_for_them(tmp_path: Path) -> None:
    """Promise: every rank gets the signal and may finish what it does; then the launcher says that they were stopped."""
    body = (
        f"def saving(*_):\n    time.sleep(1)\n    open(r'{tmp_path}' + f'/saved by {{rank}}', 'w').close()\n    sys.exit({STOPPED_EXIT})\n"
        f"signal.signal(signal.SIGTERM, saving)\nos.write(1, b'ready\\n')\n{WAITS}"
    )
    process = start(tmp_path, body)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    process.terminate()
    process.communicate(timeout=120)
    assert process.returncode == STOPPED_EXIT
    assert sorted(path.name for path in tmp_path.glob("saved*")) == ["saved by 0", "saved by 1"]
