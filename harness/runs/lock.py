"""One run directory, one run: a lock file held by the runner and by each stage it starts, so an orphaned stage keeps it.

The kernel's lock on the file ends with the processes that hold it, but on many shared file systems other hosts do not see it, or there is
none. So the holder also leaves a claim with its host and job, which it removes at the end. A claim of this host stands as long as the
kernel's lock; one of this Slurm job is from before it was requeued; another host's stands until that host or the user removes it. Clocks,
which may differ between hosts, decide nothing.
"""

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

LOCK_FILE, CLAIM_FILE, LENGTH = ".lock", ".claim", 4096
"""The lock file is padded to one length, so that naming a stage never needs room on a disk that has become full."""
CLAIMED = re.compile(r"pid \d+ on [\w.-]{1,255}( in job [\w.-]+)?")
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def hold(folder: Path) -> Iterator[int]:
    """Hold `folder` on every host; yields the descriptor to pass to each stage's process. `BusyError` names who holds it already."""
    with _opened(folder) as lock, _claimed(folder, _lock(lock, folder)):
        _write(lock, "")
        yield lock


@contextmanager
def hold_here(folder: Path, *, wait: bool = False) -> Iterator[int]:
    """As `hold`, where no other host can be at work in `folder`, or where this may `wait` for it."""
    with _opened(folder) as lock:
        _lock(lock, folder, wait)
        _write(lock, "")
        yield lock


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
    if not stage or host.partition(" in job ")[0] != socket.gethostname() or _lives(pid):
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


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield lock
    finally:
        os.close(lock)


def _lock(lock: int, folder: Path, wait: bool = False) -> bool:
    """Lock the open file; whether its file system has locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in WITHOUT_LOCKS:
            return False
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        holder = _living(os.pread(lock, LENGTH, 0).decode(errors="replace").strip())
        raise BusyError(f"{folder} is in use by {holder}; wait for it or stop it") from None
    return True


def _write(lock: int, stage: str) -> None:
    os.pwrite(lock, f"{_who()}{stage}".encode()[:LENGTH].ljust(LENGTH), 0)


def _who() -> str:
    job = os.environ.get("SLURM_JOB_ID")
    return f"pid {os.getpid()} on {socket.gethostname()}{f' in job {job}' if job else ''}"


@contextmanager
def _claimed(folder: Path, has_locks: bool) -> Iterator[None]:
    """Leave a claim within; `BusyError` where another's stands. Only one of several hosts can create a file."""
    path = folder / CLAIM_FILE
    if path.exists() and _is_over(path.read_text(errors="replace"), has_locks):
        path.unlink()
    try:
        file = open(path, "x")  # noqa: SIM115 - closed before anything else is done
    except FileExistsError:
        claim = path.read_text(errors="replace").strip()
        holder = claim if CLAIMED.fullmatch(claim) else "another host"
        raise BusyError(
            f"{folder} is in use by {holder}; wait for it or stop it there. If that process or host is gone, remove {path} and run again"
        ) from None
    try:
        with file:
            file.write(_who())
        yield
    finally:
        path.unlink(missing_ok=True)


def _is_over(claim: str, has_locks: bool) -> bool:
    """Whether who left the claim is known to be gone: an earlier run of this Slurm job, or a process of this host."""
    who, _, job = claim.partition(" in job ")
    pid, _, host = who.removeprefix("pid ").partition(" on ")
    if job and job == os.environ.get("SLURM_JOB_ID"):
        return True
    return host == socket.gethostname() and (has_locks or not _lives(pid))
