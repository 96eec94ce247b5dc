"""A stage's process: started anew, or forked from a server that has imported the libraries once.

Importing torch, transformers and lm-eval takes longer than a stage of a tiny model. A machine with `fork_stages` pays for it once a run.
CUDA does not survive a fork, and another interpreter or launcher has imports of its own: there every stage starts anew.

A signal that ends the runner (Ctrl-C, SIGTERM, a closed terminal) ends its stages, however far they have started: the first asks them to
end, a second kills them; the runner waits for them either way, so none is left behind with the run's lock.
"""

from __future__ import annotations

import contextlib
import os
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
from harness.runs.stage_server import SERVE, send

Started = Callable[[int], None]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
        if kind is not None and issubclass(kind, Exception):
            self.stop()  # nobody waits any more for what still runs
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
                send(pid, first)

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
            send(pid, self._to_end[pid][len(self.signals) > 1])

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
