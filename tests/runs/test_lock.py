"""One run directory, one run."""

import errno
import fcntl
import os
import signal
import socket
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


ELSEWHERE = """
import socket, sys
from pathlib import Path
socket.gethostname = lambda: "node7"
from harness.runs.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""
"""Holds a folder as another host does; that host's lock is not seen here once the process is gone, only its claim."""


def killed_elsewhere(folder: Path) -> int:
    """The pid of a process of Slurm job 41 on node7 that was killed while it held `folder`."""
    env = {**os.environ, "SLURM_JOB_ID": "41"}
    process = subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    return process.pid


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


def test_another_hosts_claim_stands_and_names_host_and_job(tmp_path: Path) -> None:
    """Whether a process of another host still writes cannot be known here, so its claim stands until it is removed by hand."""
    pid = killed_elsewhere(tmp_path)
    expected = rf"in use by pid {pid} on node7 in job 41; wait for it or stop it there\. If that .* is gone, remove .*\.claim and run again"
    with pytest.raises(BusyError, match=expected), hold(tmp_path):
        pass
    (tmp_path / ".claim").unlink()
    assert freed(tmp_path)


def test_a_claim_that_names_nobody(tmp_path: Path) -> None:
    """What is no claim is not repeated to the terminal."""
    (tmp_path / ".claim").write_bytes(b"\xff\x00\x1b[2J" * 1000)
    with pytest.raises(BusyError, match=r"is in use by another host; .*remove .*\.claim and run again") as told, hold(tmp_path):
        pass
    assert len(str(told.value)) < 400


NAMESPACE = ("unshare", "--user", "--map-root-user", "--pid", "--uts", "--fork", "sh", "-c")
IN_NAMESPACE = """
import sys
from pathlib import Path
from harness.errors import BusyError
from harness.runs.lock import hold
try:
    with hold(Path(sys.argv[1])):
        print("held", flush=True)
        input()
except BusyError as error:
    print(error)
"""


def in_namespace(host: str, job: str, folder: Path) -> "subprocess.Popen[str]":
    """A process with a PID namespace and a host name of its own that holds `folder`."""
    command = [*NAMESPACE, f'hostname {host}; exec "$0" "$@"', sys.executable, "-c", IN_NAMESPACE, str(folder)]
    env = {**os.environ, "SLURM_JOB_ID": job}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True)


@pytest.mark.skipif(subprocess.run([*NAMESPACE, "hostname a"], capture_output=True).returncode != 0, reason="no namespaces here")
def test_of_two_hosts_the_second_names_the_first(tmp_path: Path) -> None:
    """Both are process 1 of namespaces of their own; the second is refused while the first lives, and after it was killed."""
    first = in_namespace("node7", "41", tmp_path)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    assert (
        "is in use by pid 1 on node7 in job 41; wait for it or stop it" in in_namespace("node8", "42", tmp_path).communicate(timeout=60)[0]
    )
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    told = in_namespace("node8", "42", tmp_path).communicate(timeout=60)[0]
    assert "is in use by pid 1 on node7 in job 41" in told
    assert f"remove {tmp_path / '.claim'} and run again" in told


def test_requeued_job_takes_over_its_own_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Slurm job that comes back on another node goes on by itself; another job does not."""
    killed_elsewhere(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    with pytest.raises(BusyError, match="in job 41"), hold(tmp_path):
        pass
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    with hold(tmp_path):
        assert (tmp_path / ".claim").read_text() == f"pid {os.getpid()} on {socket.gethostname()} in job 41"
    assert not (tmp_path / ".claim").exists()


def test_claim_of_a_killed_process_of_this_host_is_taken_over(tmp_path: Path) -> None:
    """Nobody has to remove anything after a kill on the same host."""
    (tmp_path / ".claim").write_text(f"pid {os.getpid()} on {socket.gethostname()}")
    with hold(tmp_path):
        pass


def test_file_system_without_locks_is_held_by_the_claim_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the claim of a process that runs keeps others out, and that of one that is gone does not."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with hold(tmp_path), pytest.raises(BusyError, match=f"in use by pid {os.getpid()} on "), hold(tmp_path):
        pass
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / ".claim").write_text(f"pid {gone.pid} on {socket.gethostname()}")
    assert freed(tmp_path)
