"""A stage's process: started anew, or forked from a server that has imported the libraries once.

Importing torch, transformers and lm-eval takes longer than a stage of a tiny model. A machine with `fork_stages` pays for it once a run.
CUDA does not survive a fork, and another interpreter or launcher has imports of its own: there every stage starts anew.

A signal that ends the runner (Ctrl-C, SIGTERM, a closed terminal) ends its stages, however far they have started: the first asks them to
end, a second kills them; the runner waits for them either way, so none is left behind with the run's lock.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from harness.errors import StageError
from harness.runs import lock as locks

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
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ASKED_TO_END = 128 + signal.SIGTERM
"""Exit code of a server that had no stage to end."""


class Ended(NamedTuple):
    """How a stage's process ended: its exit code, or minus the signal that ended it, and its peak resident memory."""

    code: int
    peak_memory_mb: float


class Processes:
    """Starts the stages of one run; every process inherits `lock`.

    A context, of the main thread: it answers signals, and the server, where one was needed, ends with it.
    """

    def __init__(self, env: Mapping[str, str], lock: int) -> None:
        self.env, self.lock = env, lock
        self.signals: list[int] = []
        self._server: tuple[subprocess.Popen[bytes], socket.socket, TextIO] | None = None
        self._under_way = 0
        self._to_end: dict[int, tuple[signal.Signals, signal.Signals]] = {}
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Processes:
        heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # nohup stays nohup
        self._handlers = {number: signal.signal(number, self._answer) for number in heeded}
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        if self._server is not None:
            process, connection, lines = self._server
            connection.shutdown(socket.SHUT_WR)
            process.wait()
            lines.close()
            connection.close()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if kind is KeyboardInterrupt:
            self.refuse_interrupted()

    def refuse_interrupted(self) -> None:
        """Raise `StageError` where a signal came: nothing more is started."""
        if self.signals:
            raise StageError(f"interrupted by {signal.Signals(self.signals[0]).name}; the same command continues it")

    def _answer(self, number: int, _: object) -> None:
        """Pass a signal on to all that runs; where nothing does, end at once."""
        self.signals.append(number)
        if not self._under_way:
            raise KeyboardInterrupt
        for pid in list(self._to_end):
            self._end(pid)

    def _end(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, self._to_end[pid][len(self.signals) > 1])

    @contextlib.contextmanager
    def _way(self) -> Iterator[None]:
        """While a stage starts and runs: signals are passed on, never raised."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    def _watch(self, pid: int, first: signal.Signals, second: signal.Signals) -> None:
        """From now on end `pid` by these signals; at once, where one came while it started."""
        self._to_end[pid] = (first, second)
        if self.signals:
            self._end(pid)

    def run(self, command: Sequence[str], started: Started) -> Ended:
        """Run `command` to its end; `started` is told the id of its process."""
        with self._way():
            process = subprocess.Popen(command, env=self.env, pass_fds=(self.lock,))
            self._watch(process.pid, signal.SIGTERM, signal.SIGKILL)
            started(process.pid)
            _, status, usage = os.wait4(process.pid, 0)
            del self._to_end[process.pid]
        process.returncode = os.waitstatus_to_exitcode(status)
        return Ended(process.returncode, usage.ru_maxrss / 1024)

    def fork(self, directory: Path, started: Started) -> Ended:
        """Run the stage of `directory` to its end in a process forked from the server; `started` is told its id."""
        with self._way():
            return self._fork(directory, started)

    def _fork(self, directory: Path, started: Started) -> Ended:
        self._server = self._server or self._start()
        process, _, lines = self._server
        pid = _asked(lines, str(directory.resolve()))
        if pid:
            started(int(pid))
            ended = _said(lines).split()
            if ended:
                return Ended(int(ended[0]), float(ended[1]))
        return Ended(process.wait(), 0.0)  # the server itself has ended

    def _start(self) -> tuple[subprocess.Popen[bytes], socket.socket, TextIO]:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "harness", SERVE, str(theirs.fileno()), str(os.getpid())]
            process = subprocess.Popen(command, env=self.env, pass_fds=(self.lock, theirs.fileno()))
        self._watch(process.pid, signal.SIGTERM, signal.SIGTERM)  # it ends its stage, and itself
        locks.name_stage(self.lock, "(about to start)", process.pid)
        return process, ours, ours.makefile("rw", encoding="utf-8")


def _asked(lines: TextIO, question: str) -> str:
    """The server's answer, empty where it has ended."""
    try:
        print(question, file=lines, flush=True)
    except OSError:
        return ""
    return _said(lines)


def _said(lines: TextIO) -> str:
    """The server's next line, empty where it has ended."""
    try:
        return lines.readline()
    except OSError:
        return ""


class _Child:
    """The stage a server has forked; SIGTERM to the server ends it, a second one kills it, and without one the server ends."""

    def __init__(self) -> None:
        self.pid, self.asked = 0, False
        signal.signal(signal.SIGTERM, self._end)

    def _end(self, *_: object) -> None:
        if not self.pid:
            os._exit(ASKED_TO_END)
        os.kill(self.pid, signal.SIGKILL if self.asked else signal.SIGTERM)
        self.asked = True

    def fork(self) -> int:
        """As `os.fork`, without a moment in which a signal finds a stage that is not known yet."""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        self.pid = os.fork()
        if self.pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        return self.pid

    def wait(self) -> Ended:
        _, status, usage = os.wait4(self.pid, 0)
        self.pid = 0
        return Ended(os.waitstatus_to_exitcode(status), usage.ru_maxrss / 1024)


def serve(descriptor: int, runner: int) -> str:
    """The server's body: returns only in a forked process, with the directory of the stage that this is now the process of."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runner says when to end
    child = _Child()
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    runner_was_killed = (BrokenPipeError, ConnectionResetError)
    with contextlib.suppress(*runner_was_killed), socket.socket(fileno=descriptor) as connection:
        lines = connection.makefile("rw", encoding="utf-8")
        for line in lines:
            if os.getppid() != runner:
                break  # it was killed while the libraries were imported: nobody waits for a stage
            if child.fork() == 0:
                return line.removesuffix("\n")
            print(child.pid, file=lines, flush=True)
            ended = child.wait()
            print(ended.code, ended.peak_memory_mb, file=lines, flush=True)
            if child.asked:
                break
    os._exit(ASKED_TO_END if child.asked else 0)
