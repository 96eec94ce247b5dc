"""A stage's process: started anew, or forked from a server that has imported the libraries once.

Importing torch, transformers and lm-eval takes longer than a stage of a tiny model. A machine with `fork_stages` pays for it once a run.
CUDA does not survive a fork, and another interpreter or launcher has imports of its own: there every stage starts anew.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

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

Started = Callable[[int], None]


class Ended(NamedTuple):
    """How a stage's process ended: its exit code, or minus the signal that ended it, and its peak resident memory."""

    code: int
    peak_memory_mb: float


class Processes:
    """Starts the stages of one run, several at once where it is asked to; every process inherits `lock`.

    A context: the server, where one was needed, ends with the run.
    """

    def __init__(self, env: Mapping[str, str], lock: int) -> None:
        self.env, self.lock = env, lock
        self._server: _Server | None = None
        self._guard = threading.Lock()
        self._pids: set[int] = set()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()

    def run(self, command: Sequence[str], started: Started, env: Mapping[str, str] | None = None) -> Ended:
        """Run `command` to its end, with the variables `env` beside the run's; `started` is told the id of its process."""
        process = subprocess.Popen(command, env={**self.env, **(env or {})}, pass_fds=(self.lock,))
        with self._known(process.pid, started):
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return Ended(process.returncode, usage.ru_maxrss / 1024)

    def fork(self, directory: Path, started: Started) -> Ended:
        """Run the stage of `directory` to its end in a process forked from the server; `started` is told its id."""
        with self._guard:
            self._server = self._server or _Server(self.env, self.lock)
        answers = self._server.ask(str(directory.resolve()))
        pid = answers.get()
        if pid:
            with self._known(int(pid), started):
                ended = answers.get().split()
            if ended:
                return Ended(int(ended[0]), float(ended[1]))
        return Ended(self._server.process.wait(), 0.0)  # the server itself has ended

    def stop(self) -> None:
        """End every stage that runs."""
        with self._guard:
            for pid in self._pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)

    @contextlib.contextmanager
    def _known(self, pid: int, started: Started) -> Iterator[None]:
        """Within: `stop` reaches the process."""
        with self._guard:
            self._pids.add(pid)
        started(pid)
        try:
            yield
        finally:
            with self._guard:
                self._pids.remove(pid)


class _Server:
    """The process that stages are forked from, and what it says of each: its process id, then its exit code and peak memory.

    A line to it is 'NUMBER DIRECTORY', a line from it 'NUMBER ...'. Where it has ended, the answer to everything is the empty text.
    """

    def __init__(self, env: Mapping[str, str], lock: int) -> None:
        self._connection, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "harness", SERVE, str(theirs.fileno())]
            self.process = subprocess.Popen(command, env=env, pass_fds=(lock, theirs.fileno()))
        self._lines = self._connection.makefile("rw", encoding="utf-8")
        self._guard = threading.Lock()
        self._answers: list[SimpleQueue[str]] = []
        self._has_ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ask(self, directory: str) -> SimpleQueue[str]:
        """Ask for a stage; its process id, then 'CODE MEGABYTES', come through the queue returned."""
        answers = SimpleQueue[str]()
        with self._guard:
            self._answers.append(answers)
            if self._has_ended:
                answers.put("")
            else:
                with contextlib.suppress(OSError):  # it has just ended, which the reader notices
                    print(len(self._answers) - 1, directory, file=self._lines, flush=True)
        return answers

    def close(self) -> None:
        """Nothing more will be asked: wait until the server has ended."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
        self.process.wait()
        self._reader.join()
        with contextlib.suppress(OSError):
            self._lines.close()
        self._connection.close()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            for line in self._lines:
                number, _, answer = line.rstrip("\n").partition(" ")
                self._answers[int(number)].put(answer)
        with self._guard:
            self._has_ended = True
            for answers in self._answers:
                answers.put("")


def serve(descriptor: int) -> str:
    """The server's body: returns only in a forked process, with the directory of the stage that this is now the process of."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the stages, and the runner then closes the connection
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    ended, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    with socket.socket(fileno=descriptor) as connection, ended, wakes:
        directory = _fork_stages(connection, ended)
        if directory is None:
            os._exit(0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return directory


def _fork_stages(connection: socket.socket, ended: socket.socket) -> str | None:
    """Fork a process for each line of `connection`: there the directory is returned, here None when nothing more comes and all have ended.

    `ended` can be read when a process has ended.
    """
    numbers: dict[int, int] = {}
    unread, is_open = b"", True
    while is_open or numbers:
        readable = select.select([ended, *([connection] if is_open else [])], [], [])[0]
        if ended in readable:
            ended.recv(4096)
            _tell_ended(connection, numbers)
        if connection in readable:
            received = connection.recv(4096)
            is_open, unread = bool(received), unread + received
            *lines, unread = unread.split(b"\n")
            for line in lines:
                number, _, directory = line.decode().partition(" ")
                pid = _fork()
                if pid == 0:
                    return directory
                numbers[pid] = int(number)
                _tell(connection, f"{number} {pid}")
    return None


def _fork() -> int:
    """As os.fork, but Ctrl-C reaches the new process from its first moment on, though this one ignores it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # what is sent meanwhile is kept, not ignored
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return pid


def _tell_ended(connection: socket.socket, numbers: dict[int, int]) -> None:
    """Say how each process ended that has; the runner that asked for it may have been killed."""
    for pid in list(numbers):
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            _tell(connection, f"{numbers.pop(pid)} {os.waitstatus_to_exitcode(status)} {usage.ru_maxrss / 1024}")


def _tell(connection: socket.socket, line: str) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(f"{line}\n".encode())
