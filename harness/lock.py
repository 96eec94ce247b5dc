"""One run directory, one run: a lock file held by the runner and by each stage it starts, so an orphaned stage keeps it."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import BusyError

LOCK_FILE = ".lock"


@contextmanager
def hold(folder: Path) -> Iterator[int]:
    """Hold `folder`; yields the descriptor to pass to each stage's process. `BusyError` names who holds it already."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK_FILE, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            file.seek(0)
            raise BusyError(f"{folder} is in use by {file.read().strip() or 'another process'}; wait for it or stop it") from None
        _write(file.fileno(), "")
        yield file.fileno()


def name_stage(lock: int, stage_path: str, pid: int) -> None:
    """Add to the lock file the process of a stage: it outlives a killed runner and is then the one to wait for."""
    _write(lock, f" with stage {stage_path}, pid {pid}")


def _write(lock: int, stage: str) -> None:
    os.ftruncate(lock, 0)
    os.write(lock, f"pid {os.getpid()} on {socket.gethostname()}{stage}".encode())
