"""A live view of a running reproduction: every stage's state, how far the unfinished ones are, and when each last wrote something."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harness.artifact import RunDir, Stage
from harness.plan import plan, steps_of
from harness.recipe import Recipe
from harness.rows import iteration_of

EVERY_SECONDS = 2.0
TAIL_BYTES = 4096
STYLES = {"done": "green", "partial": "bold yellow", "missing": "dim", "stale": "red"}


def snapshot(recipe: Recipe, run: RunDir, now: float) -> list[dict[str, Any]]:
    """A row a stage: path, state, seconds of work (None while unfinished), progress in words, seconds since it last wrote."""
    found = []
    for stage in plan(recipe):
        state = run.state(stage)
        record = run.record(stage.path) if state == "done" else None
        unfinished = state == "partial"
        found.append(
            {
                "path": stage.path,
                "state": state,
                "seconds": record.seconds if record else None,
                "progress": progress_of(recipe, run, stage) if unfinished else "",
                "idle": now - _last_write(run.stage_dir(stage.path)) if unfinished else None,
            }
        )
    return found


def watch(recipe: Recipe, run: RunDir, console: Console, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show the snapshot again every two seconds until every stage is done or the user stops it; once where there is no terminal."""
    rows = snapshot(recipe, run, time.time())
    if not console.is_terminal:
        console.print(_view(recipe, rows))
        return
    with Live(_view(recipe, rows), console=console, auto_refresh=False) as live:
        while any(row["state"] != "done" for row in rows):
            sleep(EVERY_SECONDS)
            rows = snapshot(recipe, run, time.time())
            live.update(_view(recipe, rows), refresh=True)


def progress_of(recipe: Recipe, run: RunDir, stage: Stage) -> str:
    """How far an unfinished stage is: its last logged step, its shards of responses, or its finished tasks."""
    folder = run.stage_dir(stage.path)
    if stage.kind == "train":
        return _training(folder / "log.jsonl", _total_steps(recipe, stage))
    if stage.kind == "generate":
        return f"{len(list((folder / 'responses').glob('*.jsonl')))} shards written"
    if stage.kind == "evaluate":
        tasks = stage.spec["benchmark"]["tasks"]
        return f"{len(list((folder / 'scores').glob('*.json')))} of {len(tasks)} tasks scored"
    return ""


def _training(log: Path, total: int | None) -> str:
    """The last whole line of the log; a line being written is not read."""
    if not log.exists():
        return "before its first step"
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = file.read().split(b"\n")[:-1]
    if not lines:
        return "before its first step"
    try:
        last = json.loads(lines[-1])
    except ValueError:
        return "its last log line is not readable"
    of = f" of {total}" if total else ""
    loss = f", loss {last['loss']:.3f}" if isinstance(last.get("loss"), float) else ""
    return f"step {last['step'] + 1}{of}{loss}"


def _total_steps(recipe: Recipe, stage: Stage) -> int | None:
    t = iteration_of(stage.path.split("/")[0])
    steps: int | None = stage.spec["num_steps"] if t is None else steps_of(recipe, t)
    return steps


def _last_write(folder: Path) -> float:
    return max((path.stat().st_mtime for path in [folder, *folder.rglob("*")] if path.exists()), default=0.0)


def _view(recipe: Recipe, rows: list[dict[str, Any]]) -> Group:
    grid = Table(box=None, pad_edge=False)
    for name in ("stage", "state", "work", "progress"):
        grid.add_column(name, overflow="fold")
    for row in rows:
        style = STYLES[row["state"]]
        idle = f", last write {row['idle']:.0f} s ago" if row["idle"] is not None else ""
        work = "" if row["seconds"] is None else f"{row['seconds']:.0f} s"
        grid.add_row(escape(row["path"]), Text(row["state"], style=style), work, escape(row["progress"] + idle))
    done = sum(row["state"] == "done" for row in rows)
    spent = sum(row["seconds"] or 0.0 for row in rows) / 3600
    return Group(Text(f"{recipe.name}: {done} of {len(rows)} stages done, {spent:.2f} hours of work", style="bold"), grid)
