"""A live view of running reproductions: every stage's state, how far the unfinished ones are, and how long each still takes."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harness.artifact import RunDir, Stage
from harness.contracts.run_files import names_below
from harness.files import NO_JSON
from harness.plan import SCORED, plan, steps_of
from harness.recipe import Recipe
from harness.rows import iteration_of
from harness.runs import lock
from harness.stages.response_shards import shards

EVERY_SECONDS = 2.0
TAIL_BYTES = 4096
STYLES = {"done": "green", "running": "bold cyan", "partial": "bold yellow", "missing": "dim", "stale": "red"}
Planned = Sequence[tuple[Recipe, RunDir]]
"""Recipes with the directories they run in."""


class Progress(NamedTuple):
    """`done` of `total` pieces of a stage's work, and that in words; None where it is unknown."""

    words: str
    done: int | None = None
    total: int | None = None


class Row(NamedTuple):
    """A stage: its state, seconds of work (None while unfinished), progress, and seconds since it last wrote (None unless unfinished)."""

    path: str
    state: str
    seconds: float | None
    progress: Progress
    idle: float | None


Seen = dict[str, tuple[float, int]]
"""{stage: (time, pieces done)} when each unfinished stage was first looked at."""


def snapshot(recipe: Recipe, run: RunDir, now: float) -> list[Row]:
    """A row a stage, in the plan's order."""
    found, running = [], lock.running(run.path)
    for stage in plan(recipe):
        state = run.state(stage)
        record = run.record(stage.path) if state == "done" else None
        seconds = record.seconds if record else None
        if state == "partial":
            idle = now - _last_write(run.stage_dir(stage.path))
            found.append(Row(stage.path, "running" if stage.path in running else state, seconds, progress_of(recipe, run, stage), idle))
        else:
            found.append(Row(stage.path, state, seconds, Progress(""), None))
    return found


def watch(planned: Planned, console: Console, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show the snapshot again every two seconds until every stage is done or the user stops it; once where there is no terminal."""
    seen: Seen = {}

    def look() -> tuple[Group, bool]:
        now = time.time()
        rows = [(recipe.name, snapshot(recipe, run, now)) for recipe, run in planned]
        for name, found in rows:
            for row in found:
                if row.progress.done is not None:
                    seen.setdefault(f"{name}/{row.path}", (now, row.progress.done))
        height = console.height - 1 if console.is_terminal else None
        return _view(rows, seen, now, height), all(row.state == "done" for _, found in rows for row in found)

    view, is_done = look()
    if not console.is_terminal:
        console.print(view)
        return
    with Live(view, console=console, auto_refresh=False) as live:
        while not is_done:
            sleep(EVERY_SECONDS)
            view, is_done = look()
            live.update(view, refresh=True)


def progress_of(recipe: Recipe, run: RunDir, stage: Stage) -> Progress:
    """How far an unfinished stage is: its last logged step, its shards of responses, or its finished tasks."""
    folder = run.stage_dir(stage.path)
    if stage.kind == "train":
        return _training(folder / "log.jsonl", _total_steps(recipe, stage))
    if stage.kind == "generate":
        launch = run.launch(stage.path)
        total = len(shards(recipe.prompts.num_prompts, launch.machine)) if launch else None
        return _pieces(len(list((folder / "responses").glob("*.jsonl"))), total, "shards written")
    if stage.kind in SCORED:
        return _pieces(len(list((folder / "scores").glob("*.json"))), len(stage.spec["benchmark"]["tasks"]), "tasks scored")
    return Progress("")


def seconds_left(row: Row, first: tuple[float, int] | None, now: float) -> float | None:
    """What the rest of a stage takes at the pace seen since `first`; None before anything was seen to move."""
    done, total = row.progress.done, row.progress.total
    if row.state != "running" or first is None or done is None or total is None or done <= first[1]:
        return None
    return (now - first[0]) * (total - done) / (done - first[1])


def _pieces(done: int, total: int | None, what: str) -> Progress:
    return Progress(f"{done}{'' if total is None else f' of {total}'} {what}", done, total)


def _training(log: Path, total: int | None) -> Progress:
    """The last whole line of the log; a line being written is not read."""
    lines: list[bytes] = []
    if log.exists():
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
    if not lines:
        return Progress("before its first step")
    try:
        last = json.loads(lines[-1])
        step, loss = int(last["step"]) + 1, last.get("loss")
    except (*NO_JSON, TypeError, KeyError, AttributeError):
        return Progress("its last log line is not readable")
    of = f" of {total}" if total else ""
    told = f", loss {loss:.3f}" if isinstance(loss, float) else ""
    return Progress(f"step {step}{of}{told}", step, total)


def _total_steps(recipe: Recipe, stage: Stage) -> int | None:
    t = iteration_of(stage.path.split("/")[0])
    steps: int | None = stage.spec["num_steps"] if t is None else steps_of(recipe, t)
    return steps


def _last_write(folder: Path) -> float:
    return max((path.stat().st_mtime for path in (folder, *(folder / name for name in names_below(folder))) if path.exists()), default=0.0)


def _view(runs: Sequence[tuple[str, list[Row]]], seen: Seen, now: float, height: int | None) -> Group:
    """One run stage by stage, or a line a run and what runs in it; at most `height` lines."""
    every = [row for _, rows in runs for row in rows]
    spent = sum(row.seconds or 0.0 for row in every) / 3600
    name = runs[0][0] if len(runs) == 1 else f"{len(runs)} runs"
    done = sum(row.state == "done" for row in every)
    title = Text(f"{name}: {done} of {len(every)} stages done, {spent:.2f} hours of work", style="bold")
    lines = list(_stage_lines(runs[0][1], runs[0][0], seen, now)) if len(runs) == 1 else list(_run_lines(runs, seen, now))
    shown, left_out = _fitted(lines, None if height is None else height - 3)
    grid = Table(box=None, pad_edge=False)
    for place, column in enumerate(("stage" if len(runs) == 1 else "run", "state", "work")):
        grid.add_column(column, no_wrap=True, min_width=max((len(line[place]) for line in shown), default=0))
    grid.add_column("progress", no_wrap=height is not None, overflow="ellipsis" if height else "fold")
    for line in shown:
        grid.add_row(escape(line.name), Text(line.state, style=STYLES[line.state]), line.work, escape(line.progress))
    counts = ", ".join(f"{count} {state}" for state, count in Counter(line.state for line in left_out).items())
    return Group(title, grid, *([Text(f"and {counts}", style="dim")] if left_out else []))


class _Line(NamedTuple):
    name: str
    state: str
    work: str
    progress: str


def _stage_lines(rows: Sequence[Row], name: str, seen: Seen, now: float) -> Iterator[_Line]:
    for row in rows:
        work = "" if row.seconds is None else f"{row.seconds:.0f} s"
        yield _Line(row.path, row.state, work, _progress_text(row, seen.get(f"{name}/{row.path}"), now))


def _run_lines(runs: Sequence[tuple[str, list[Row]]], seen: Seen, now: float) -> Iterator[_Line]:
    for name, rows in runs:
        unfinished = [row for row in rows if row.state in ("running", "partial")]
        done = sum(row.state == "done" for row in rows)
        states = {row.state for row in rows}
        state = next(state for state in ("running", "partial", "stale", "missing", "done") if state in states)
        told = "; ".join(f"{row.path}: {_progress_text(row, seen.get(f'{name}/{row.path}'), now)}" for row in unfinished)
        work = f"{sum(row.seconds or 0.0 for row in rows):.0f} s"
        yield _Line(name, state, work, f"{done} of {len(rows)} stages{f'; {told}' if told else ''}")


def _progress_text(row: Row, first: tuple[float, int] | None, now: float) -> str:
    left = seconds_left(row, first, now)
    idle = "" if row.idle is None else f"last write {row.idle:.0f} s ago"
    return ", ".join(filter(None, (row.progress.words, "" if left is None else f"{_duration(left)} left", idle)))


def _duration(seconds: float) -> str:
    """'40 s', '12 min', '3.5 h'."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _fitted(lines: list[_Line], height: int | None) -> tuple[list[_Line], list[_Line]]:
    """At most `height` lines in their order, and the rest: what is at work stays, then what comes next, then what was done last."""
    if height is None or len(lines) <= height:
        return lines, []
    active = [i for i, line in enumerate(lines) if line.state in ("running", "partial", "stale")]
    missing = [i for i, line in enumerate(lines) if line.state == "missing"]
    done = [i for i, line in enumerate(lines) if line.state == "done"]
    kept = set([*active, *missing, *reversed(done)][: max(height - 1, 1)])
    return [line for i, line in enumerate(lines) if i in kept], [line for i, line in enumerate(lines) if i not in kept]
