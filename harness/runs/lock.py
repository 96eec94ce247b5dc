"""One run directory, one run: a lock file held by the runner and by each stage it starts, so an orphaned stage keeps it."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from harness.errors import BusyError

LOCK_FILE, LENGTH = ".lock", 4096
"""The file is padded to one length, so that naming a stage never needs room on a disk that has become full."""


@contextmanager
def hold(folder: Path) -> Iterator[int]:
    """Hold `folder`; yields the descriptor to pass to each stage's process. `BusyError` names who holds it already."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            holder = _living(os.pread(lock, LENGTH, 0).decode(errors="replace").strip())
            raise BusyError(f"{folder} is in use by {holder}; wait for it or stop it") from None
        _write(lock, "")
        yield lock
    finally:
        os.close(lock)


def name_stages(lock: int, pids: Mapping[str, int]) -> None:
    """Add to the lock file the processes of the stages that run: they outlive a killed runner and are then those to wait for."""
    _write(lock, "".join(f" with stage {path}, pid {pid}" for path, pid in pids.items()))


def running(folder: Path) -> frozenset[str]:
    """The stages that a runner, here or on another machine that shares the disk, works on now in `folder`."""
    path = folder / LOCK_FILE
    if not path.exists():
        return frozenset()
    with open(path, "rb") as file:
        names = re.findall(r" with stage (.+?), pid \d+", file.read(LENGTH).decode(errors="replace"))
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return frozenset(names)
    return frozenset()


def _living(holder: str) -> str:
    """`holder` as the lock names it, without a runner that is gone: then its stage is what is left."""
    runner, _, stage = holder.partition(" with ")
    pid, _, host = runner.removeprefix("pid ").partition(" on ")
    if not stage or host != socket.gethostname() or _lives(pid):
        return holder or "another process"
    return f"what a killed run (pid {pid}) left: {stage}"


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _write(lock: int, stage: str) -> None:
    os.pwrite(lock, f"pid {os.getpid()} on {socket.gethostname()}{stage}".encode()[:LENGTH].ljust(LENGTH), 0)
