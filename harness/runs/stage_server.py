"""The process that stages are forked from, and how a forked one ends."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import select
import signal
import socket
import sys
import threading
from typing import NoReturn

SERVE = "serve-stages"
PRELOADED = (
    "harness.cli.main",
    "harness.stages.model",
    "harness.stages.train",
    "harness.components.engines.hf",
    "harness.evaluation.lm_eval_suite",
    "lm_eval.api.task",
    "lm_eval.evaluator",
    "openai",
)
"""What stages import; whichever is not installed is left to the stage that needs it, which says so."""
ASKED_TO_END = 128 + signal.SIGTERM
"""Exit code of a server that had no stage to end."""


class _Children:
    """The stages a server has forked, by process id; SIGTERM to the server ends them, a second one kills them.

    Without one the server itself ends. `ended` can be read when a stage has ended.
    """

    def __init__(self) -> None:
        self.numbers: dict[int, str] = {}
        self.asked = False
        self.ended, self._wakes = socket.socketpair()
        self._wakes.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._end)

    def _end(self, *_: object) -> None:
        if not self.numbers:
            os._exit(ASKED_TO_END)
        for pid in self.numbers:
            send(pid, signal.SIGKILL if self.asked else signal.SIGTERM)
        self.asked = True

    def fork(self, number: str) -> int:
        """As `os.fork`, without a moment in which a signal finds a stage that is not known yet; Ctrl-C reaches the stage from then on."""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])  # what is sent meanwhile is kept
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for default in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(default, signal.SIG_DFL)
        else:
            self.numbers[pid] = number
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGINT])
        return pid

    def report(self, connection: socket.socket) -> None:
        """Say how each stage ended that has."""
        self.ended.recv(4096)
        for pid in list(self.numbers):
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                _tell(connection, f"{self.numbers.pop(pid)} {os.waitstatus_to_exitcode(status)} {usage.ru_maxrss / 1024}")


def serve(descriptor: int, runner: int) -> str:
    """The server's body: returns only in a forked process, with the directory of the stage that this is now the process of."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runner says when to end
    children = _Children()
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with socket.socket(fileno=descriptor) as connection:
        directory = _fork_stages(connection, children, runner)
        if directory is None:
            os._exit(ASKED_TO_END if children.asked else 0)
        return directory


def end(code: int) -> NoReturn:
    """End a forked process as `sys.exit` does, but leave the libraries as they are: to take them apart takes two seconds of a core."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _fork_stages(connection: socket.socket, children: _Children, runner: int) -> str | None:
    """Fork a process for each line of `connection`: there its directory is returned, here None when no more come and all have ended."""
    unread, is_open = b"", True
    while is_open or children.numbers:
        readable = select.select([children.ended, *([connection] if is_open else [])], [], [])[0]
        if children.ended in readable:
            children.report(connection)
        if connection in readable:
            received = connection.recv(4096)
            is_open, unread = bool(received), unread + received
            *lines, unread = unread.split(b"\n")
            for line in lines:
                number, _, directory = line.decode().partition(" ")
                if children.asked or os.getppid() != runner:
                    return None  # the runner was killed while the libraries were imported: nobody waits for a stage
                pid = children.fork(number)
                if pid == 0:
                    return directory
                _tell(connection, f"{number} {pid}")
    return None


def _tell(connection: socket.socket, line: str) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the runner was killed
        connection.sendall(f"{line}\n".encode())


def send(pid: int, number: signal.Signals) -> None:
    """A signal to a process, where it still is."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
