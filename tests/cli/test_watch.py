"""A running reproduction can be followed without touching it."""

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from harness.artifact import DONE_FILE, RunDir
from harness.cli.listings import status_list
from harness.cli.watch import Progress, Row, seconds_left, snapshot, watch
from harness.runs import lock as locks
from tests.synthetic_runs import small_recipe, write_run


def test_unfinished_stages_tell_how_far_they_are(tmp_path: Path) -> None:
    """The last whole log line, responses and tasks so far, and how long ago something was written."""
    recipe, run = small_recipe(), RunDir(tmp_path)
    write_run(tmp_path, recipe)
    for path in ("iter1/train", "iter1/generate", "iter1/eval/open_llm"):
        (tmp_path / path / DONE_FILE).unlink()
    (tmp_path / "iter1/train/log.jsonl").write_text(json.dumps({"step": 40, "loss": 0.5}) + '\n{"step": 41, "lo')
    (tmp_path / "iter1/eval/open_llm/scores/gsm8k.json").unlink()
    rows = {row.path: row for row in snapshot(recipe, run, (tmp_path / "iter1/train/log.jsonl").stat().st_mtime + 5)}
    assert rows["iter1/train"].progress == ("step 41 of 3124, loss 0.500", 41, 3124)
    assert rows["iter1/train"].idle == pytest.approx(5, abs=1)
    assert rows["iter1/generate"].progress.words == "0 of 1563 shards written"
    assert rows["iter1/eval/open_llm"].progress.words == "1 of 2 tasks scored"
    assert (rows["iter0/train"].state, rows["iter0/train"].seconds, rows["iter0/train"].idle) == ("done", 1.0, None)


@pytest.mark.parametrize("line", ["[1]", "5", "null", "{}", '{"step": "x"}', '{"step": null}', "[" * 100_000, "hello", "\\x00"])
def test_a_log_line_that_is_none(tmp_path: Path, line: str) -> None:
    """It is said in place of the step."""
    recipe = small_recipe()
    write_run(tmp_path, recipe)
    (tmp_path / "iter1/train" / DONE_FILE).unlink()
    (tmp_path / "iter1/train/log.jsonl").write_text(line + "\n")
    rows = {row.path: row for row in snapshot(recipe, RunDir(tmp_path), 0.0)}
    assert rows["iter1/train"].progress.words == "its last log line is not readable"


def test_what_a_runner_works_on_is_running(tmp_path: Path) -> None:
    """While the lock is held and names it, an unfinished stage is running; a runner that was killed leaves it partial."""
    recipe, run = small_recipe(), RunDir(tmp_path)
    write_run(tmp_path, recipe)
    (tmp_path / "iter1/train" / DONE_FILE).unlink()

    def state() -> str:
        return next(row.state for row in snapshot(recipe, run, 0.0) if row.path == "iter1/train")

    with locks.hold(tmp_path) as lock:
        assert state() == "partial"
        locks.name_stages(lock, {"iter1/train": 1})
        assert state() == "running"
        assert "running" in {row["state"] for row in status_list(recipe, run)}
    assert state() == "partial"


def test_time_left_follows_the_pace_seen() -> None:
    """20 of 100 pieces in 40 s leave 160 s; nothing is said before something was seen to move, or of a stage that stands still."""
    row = Row("iter0/train", "running", None, Progress("", 30, 110), 1.0)
    assert seconds_left(row, (60.0, 10), 100.0) == 160.0
    assert seconds_left(row, (60.0, 30), 100.0) is None
    assert seconds_left(row, None, 100.0) is None
    assert seconds_left(row._replace(state="partial"), (60.0, 10), 100.0) is None


@pytest.mark.parametrize("num_runs", [1, 30])
def test_view_fits_the_terminal(tmp_path: Path, num_runs: int) -> None:
    """On 24 rows what is at work is shown, and what is left out is counted: of one run, and of many."""
    recipe = small_recipe()
    write_run(tmp_path, recipe)
    (tmp_path / "iter1/train" / DONE_FILE).unlink()
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=12 if num_runs == 1 else 24)
    with pytest.raises(StopWatchingError):
        watch([(recipe, RunDir(tmp_path))] * num_runs, console, stop)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    frame = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", text[text.rindex("stages done") :])
    assert "iter1/train" in frame
    assert re.search(r"\nand \d+ (done|partial)", frame)
    assert len(frame.splitlines()) <= console.height
    assert max(len(line) for line in frame.splitlines()) <= 80


class StopWatchingError(Exception):
    """Ends a view that would wait."""


def stop(seconds: float) -> None:
    raise StopWatchingError


def test_view_follows_until_all_is_done(tmp_path: Path) -> None:
    """On a terminal it looks again until the last stage is done; without one it shows the state once."""
    recipe = small_recipe()
    write_run(tmp_path, recipe)
    done, slept = tmp_path / "iter1/train" / DONE_FILE, []
    record = done.read_text()
    done.unlink()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        done.write_text(record)

    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    watch([(recipe, RunDir(tmp_path))], console, sleep)
    assert len(slept) == 1
    assert "partial" in console.file.getvalue()  # type: ignore[attr-defined]
    plain = Console(file=io.StringIO(), width=100)
    watch([(recipe, RunDir(tmp_path))], plain, sleep)
    assert "stages done" in plain.file.getvalue()  # type: ignore[attr-defined]
    assert len(slept) == 1
