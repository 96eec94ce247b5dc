"""A running reproduction can be followed without touching it."""

import io
import json
from pathlib import Path

from rich.console import Console

from harness.artifact import DONE_FILE, RunDir
from harness.cli.watch import snapshot, watch
from tests.synthetic_runs import small_recipe, write_run


def test_unfinished_stages_tell_how_far_they_are(tmp_path: Path) -> None:
    """The last whole log line, responses and tasks so far, and how long ago something was written."""
    recipe, run = small_recipe(), RunDir(tmp_path)
    write_run(tmp_path, recipe)
    for path in ("iter1/train", "iter1/generate", "iter1/eval/open_llm"):
        (tmp_path / path / DONE_FILE).unlink()
    (tmp_path / "iter1/train/log.jsonl").write_text(json.dumps({"step": 40, "loss": 0.5}) + '\n{"step": 41, "lo')
    (tmp_path / "iter1/eval/open_llm/scores/gsm8k.json").unlink()
    rows = {row["path"]: row for row in snapshot(recipe, run, (tmp_path / "iter1/train/log.jsonl").stat().st_mtime + 5)}
    assert rows["iter1/train"]["progress"] == "step 41 of 3124, loss 0.500"
    assert 4 <= rows["iter1/train"]["idle"] <= 5
    assert rows["iter1/generate"]["progress"] == "0 shards written"
    assert rows["iter1/eval/open_llm"]["progress"] == "1 of 2 tasks scored"
    assert (rows["iter0/train"]["state"], rows["iter0/train"]["seconds"], rows["iter0/train"]["idle"]) == ("done", 1.0, None)


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
    watch(recipe, RunDir(tmp_path), console, sleep)
    assert len(slept) == 1
    assert "partial" in console.file.getvalue()  # type: ignore[attr-defined]
    plain = Console(file=io.StringIO(), width=100)
    watch(recipe, RunDir(tmp_path), plain, sleep)
    assert "stages done" in plain.file.getvalue()  # type: ignore[attr-defined]
    assert len(slept) == 1
