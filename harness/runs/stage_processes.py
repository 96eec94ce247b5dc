"""A stage's process: started anew, or forked from a server that has imported the libraries once.

Importing torch, transformers and lm-eval takes longer than a stage of a tiny model. A machine with `fork_stages` pays for it once a run.
CUDA does not survive a fork, and another interpreter or launcher has imports of its own: there every stage starts anew.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

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
    """Starts the stages of one run; every process inherits `lock`. A context: the server, where one was needed, ends with the run."""

    def __init__(self, env: Mapping[str, str], lock: int) -> None:
        self.env, self.lock = env, lock
        self._server: tuple[subprocess.Popen[bytes], socket.socket, TextIO] | None = None

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            process, connection, lines = self._server
            connection.shutdown(socket.SHUT_WR)
            process.wait()
            lines.close()
            connection.close()

    def run(self, command: Sequence[str], started: Started) -> Ended:
        """Run `command` to its end; `started` is told the id of its process."""
        process = subprocess.Popen(command, env=self.env, pass_fds=(self.lock,))
        started(process.pid)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except KeyboardInterrupt:
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        return Ended(process.returncode, usage.ru_maxrss / 1024)

    def fork(self, directory: Path, started: Started) -> Ended:
        """Run the stage of `directory` to its end in a process forked from the server; `started` is told its id."""
        self._server = self._server or self._start()
        process, _, lines = self._server
        pid = _request(lines, str(directory.resolve()))
        if pid:
            started(int(pid))
            ended = _next_line(lines).split()
            if ended:
                return Ended(int(ended[0]), float(ended[1]))
        return Ended(process.wait(), 0.0)  # the server itself has ended

    def _start(self) -> tuple[subprocess.Popen[bytes], socket.socket, TextIO]:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "harness", SERVE, str(theirs.fileno())]
            process = subprocess.Popen(command, env=self.env, pass_fds=(self.lock, theirs.fileno()))
        return process, ours, ours.makefile("rw", encoding="utf-8")


def _request(lines: TextIO, directory: str) -> str:
    """The server's answer to `directory`, the id of a process; empty where the server has ended."""
    try:
        print(directory, file=lines, flush=True)
    except OSError:
        return ""
    return _next_line(lines)


def _next_line(lines: TextIO) -> str:
    """The server's next line, empty where it has ended."""
    try:
        return lines.readline()
    except OSError:
        return ""


def serve(descriptor: int) -> str:
    """The server's body: returns only in a forked process, with the directory of the stage that this is now the process of."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the stage, and the runner then closes the connection
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    runner_was_killed = (BrokenPipeError, ConnectionResetError)
    with contextlib.suppress(*runner_was_killed), socket.socket(fileno=descriptor) as connection:
        lines = connection.makefile("rw", encoding="utf-8")
        for line in lines:
            pid = os.fork()
            if pid == 0:
                return line.removesuffix("\n")
            print(pid, file=lines, flush=True)
            _, status, usage = os.wait4(pid, 0)
            print(os.waitstatus_to_exitcode(status), usage.ru_maxrss / 1024, file=lines, flush=True)
    os._exit(0)
