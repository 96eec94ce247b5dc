"""Run `harness reproduce`, killing its whole process tree at chosen moments; usable by hand on any recipe:

python -m tests.smoke.interruption tiny 10 [MACHINE]
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

from harness import recipe as recipes
from harness.artifact import RunDir
from harness.plan import plan

EVENT = re.compile(r"\[\d+/\d+\] (\S+): (starts|continues|done earlier|finished)")


class Event(NamedTuple):
    """What the runner said of a stage."""

    stage: str
    what: str


class Moment(NamedTuple):
    """Kill this many seconds into the first launch of the stage."""

    stage: str
    seconds: float


def run(recipe: str, out: Path, machine: str, kill: Moment | None = None) -> list[Event]:
    """One `harness reproduce`; SIGKILL to its process group at `kill`. Returns what was announced."""
    command = [sys.executable, "-m", "harness", "reproduce", recipe, "--out", str(out), "--machine", machine]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    events, tail = [], []
    for line in process.stderr:
        tail.append(line)
        found = EVENT.search(line)
        if found:
            events.append(Event(*found.groups()))
            if kill and events[-1] in (Event(kill.stage, "starts"), Event(kill.stage, "continues")):
                threading.Timer(kill.seconds, _kill, (process,)).start()
    code = process.wait()
    if kill is None and code != 0:
        raise AssertionError(f"exit {code}:\n{''.join(tail[-20:])}")
    return events


def _kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def moments(recipe: str, undisturbed: Path, num: int) -> list[Moment]:
    """`num` moments spread over the stages, early and late within a stage in turn."""
    stages = [stage.path for stage in plan(recipes.load(recipe))]
    chosen = [stages[(2 * i + 1) * len(stages) // (2 * num)] for i in range(num)]
    directory = RunDir(undisturbed)
    found = []
    for i, stage in enumerate(chosen):
        record = directory.record(stage)
        assert record is not None
        found.append(Moment(stage, record.seconds * (0.25, 0.6, 0.9)[i % 3]))
    return found


def tables(out: Path) -> dict[str, bytes]:
    """The bytes of every table of a run."""
    return {path.name: path.read_bytes() for path in sorted((out / "tables").iterdir())}


def check(recipe: str, num_kills: int, root: Path, machine: str = "cpu") -> list[str]:
    """Compare a run killed `num_kills` times with an undisturbed one; returns a line for each kill."""
    run(recipe, root / "undisturbed", machine)
    finished: set[str] = set()
    lines = []
    kills: list[Moment | None] = [*moments(recipe, root / "undisturbed", num_kills), None]
    for kill in kills:
        began = time.monotonic()
        for event in run(recipe, root / "killed", machine, kill):
            if event.what == "finished":
                finished.add(event.stage)
            elif event.what in ("starts", "continues") and event.stage in finished:
                raise AssertionError(f"{event.stage} ran again after it had finished")
        what = f"killed {kill.seconds:.1f} s into {kill.stage}" if kill else "left alone"
        lines.append(f"{what}; {len(finished)} stages finished; the command ran {time.monotonic() - began:.1f} s")
    if tables(root / "killed") != tables(root / "undisturbed"):
        raise AssertionError(f"tables differ: compare {root}/killed/tables with {root}/undisturbed/tables")
    return lines


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for line in check(sys.argv[1], int(sys.argv[2]), Path(folder), *sys.argv[3:]):
            print(line)
        print("tables equal, byte for byte; no finished stage ran twice")
