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
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

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
    """Starts the stages of one run, several at once where it is asked to from several threads; every process inherits `lock`.

    A context, of the main thread: it answers signals, and the server, where one was needed, ends with it.
    """

    def __init__(self, env: Mapping[str, str], lock: int) -> None:
        self.env, self.lock = env, lock
        self.signals: list[int] = []
        self._guard = threading.RLock()
        self._server: _Server | None = None
        self._num_under_way = 0
        self._to_end: dict[int, tuple[signal.Signals, signal.Signals]] = {}
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Processes:
        heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # nohup stays nohup
        self._handlers = {number: signal.signal(number, self._answer) for number in heeded}
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if kind is KeyboardInterrupt:
            self.refuse_interrupted()

    def refuse_interrupted(self) -> None:
        """Raise `StageError` where a signal came: nothing more is started."""
        if self.signals:
            raise StageError(f"interrupted by {signal.Signals(self.signals[0]).name}; the same command continues it")

    def stop(self) -> None:
        """Ask every stage that runs to end."""
        with self._guard:
            for pid, (first, _) in self._to_end.items():
                _send(pid, first)

    def run(self, command: Sequence[str], started: Started, env: Mapping[str, str] | None = None) -> Ended:
        """Run `command` to its end, with the variables `env` beside the run's; `started` is told the id of its process."""
        with self._under_way():
            process = subprocess.Popen(command, env={**self.env, **(env or {})}, pass_fds=(self.lock,))
            self._watch(process.pid, signal.SIGTERM, signal.SIGKILL)
            started(process.pid)
            _, status, usage = os.wait4(process.pid, 0)
            with self._guard:
                del self._to_end[process.pid]
        process.returncode = os.waitstatus_to_exitcode(status)
        return Ended(process.returncode, usage.ru_maxrss / 1024)

    def fork(self, directory: Path, started: Started) -> Ended:
        """Run the stage of `directory` to its end in a process forked from the server; `started` is told its id."""
        with self._under_way():
            server = self._started_server()
            answers = server.ask(str(directory.resolve()))
            pid = answers.get()
            if pid:
                started(int(pid))
                ended = answers.get().split()
                if ended:
                    return Ended(int(ended[0]), float(ended[1]))
            return Ended(server.process.wait(), 0.0)  # the server itself has ended

    def _started_server(self) -> _Server:
        with self._guard:
            if self._server is None:
                self._server = _Server(self.env, self.lock)
                self._watch(self._server.process.pid, signal.SIGTERM, signal.SIGTERM)  # it ends its stages, and itself
                locks.name_stages(self.lock, {"(about to start)": self._server.process.pid})
            return self._server

    def _answer(self, number: int, _: object) -> None:
        """Pass a signal on to all that runs; where nothing does, end at once."""
        self.signals.append(number)
        if not self._num_under_way:
            raise KeyboardInterrupt
        for pid in list(self._to_end):  # no lock: the thread that holds it may be the one interrupted
            self._end(pid)

    def _end(self, pid: int) -> None:
        if pid in self._to_end:
            _send(pid, self._to_end[pid][len(self.signals) > 1])

    @contextlib.contextmanager
    def _under_way(self) -> Iterator[None]:
        """While a stage starts and runs: signals are passed on, never raised."""
        with self._guard:
            self._num_under_way += 1
        try:
            yield
        finally:
            with self._guard:
                self._num_under_way -= 1

    def _watch(self, pid: int, first: signal.Signals, second: signal.Signals) -> None:
        """From now on end `pid` by these signals; at once, where one came while it started."""
        with self._guard:
            self._to_end[pid] = (first, second)
            if self.signals:
                self._end(pid)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class _Server:
    """The process that stages are forked from, and what it says of each: its process id, then its exit code and peak memory.

    A line to it is 'NUMBER DIRECTORY', a line from it 'NUMBER ...'. Where it has ended, the answer to everything is the empty text.
    """

    def __init__(self, env: Mapping[str, str], lock: int) -> None:
        self._connection, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "harness", SERVE, str(theirs.fileno()), str(os.getpid())]
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
            _send(pid, signal.SIGKILL if self.asked else signal.SIGTERM)
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
