"""How a process ends that was forked from the server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.artifact import RunDir
from tests.runs.test_stage_processes import begun, processes

ENDING = """
import atexit, sys, threading, time
from harness.runs.stage_server import end

class Said:
    def __del__(self):
        print("taken apart")

said = Said()
atexit.register(print, "callback")
threading.Thread(target=lambda: (time.sleep(0.5), print("thread"))).start()
sys.stdout.write("unflushed\\n")
end(75)
"""


def test_what_others_count_on_is_done_and_nothing_is_taken_apart() -> None:
    """Threads end, callbacks are called, text is written, the code is the one given; objects of modules are left alone."""
    done = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split(), done.stderr) == (75, ["unflushed", "thread", "callback"], "")


def test_a_forked_stage_ends_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Under PYTHONVERBOSE an interpreter names every module that it takes apart: neither stage nor server names one."""
    monkeypatch.setenv("PYTHONVERBOSE", "1")
    run = RunDir(tmp_path)
    with processes(run) as started:
        assert started.fork(begun(run, "prompts"), lambda pid: None).code == 0
    said = capfd.readouterr().err
    assert "import 'harness.cli.main'" in said
    assert "# cleanup" not in said
