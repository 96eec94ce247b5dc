"""Finished stages of the same identity are linked, with their records, and only where they stand on the same bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

import pytest

from harness import machine
from harness.artifact import DONE_FILE, Launch, RunDir
from harness.files import dump, read_model, write_atomic
from harness.plan import plan
from harness.recipe import ModelRef, load, replace
from harness.runs import runner, sharing
from harness.runs.sharing import share
from harness.runs.verification import verify
from tests.tiny_family import fake_stages, quiet, small_recipe

CPU = machine.load("cpu")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A finished run of the small recipe."""
    fake_stages(monkeypatch)
    run = RunDir(tmp_path / "small")
    runner.reproduce(small_recipe(), run, CPU, None, quiet)
    return run


def test_everything_of_an_equal_recipe_is_shared(made: RunDir, tmp_path: Path) -> None:
    """Promise: a recipe that differs in its name alone needs no work: every stage is done, every file verifies, no byte is copied."""
    run = RunDir(tmp_path / "other")
    stages = plan(replace(small_recipe(), name="other"))
    assert [one.stage.path for one in share(stages, run, [made])] == [stage.path for stage in stages]
    assert {run.state(stage) for stage in stages} == {"done"}
    assert verify(run)[:2] == ([], [])
    ours, theirs = (one.stage_dir("iter0/train") / "checkpoint" / "model.safetensors" for one in (run, made))
    assert ours.stat().st_ino == theirs.stat().st_ino
    assert not list(tmp_path.rglob(sharing.BESIDE))


def test_provenance_comes_along(made: RunDir, tmp_path: Path) -> None:
    """Promise: a shared stage says which run and which command made it."""
    run = RunDir(tmp_path / "other")
    share(plan(small_recipe("other")), run, [made])
    launch = run.launch("iter1/train")
    assert launch is not None
    assert launch.launches == [{"shared_from": "small/iter1/train", "command": "harness reproduce small"}]


def test_what_differs_is_left_to_be_made(made: RunDir, tmp_path: Path) -> None:
    """Promise: with another beta in iteration 1 everything before its training is shared, and nothing from there on."""
    recipe = small_recipe("other")
    changed = replace(recipe, name="other", iterations=(recipe.iterations[0], recipe.iterations[1].model_copy(update={"beta": 0.5})))
    run = RunDir(tmp_path / "other")
    shared = {one.stage.path for one in share(plan(changed), run, [made])}
    left = {stage.path for stage in plan(changed)} - shared
    assert left == {"iter1/train", "iter1/eval/big_bench", "iter1+dpo/train", "iter1+dpo/eval/big_bench"}


def test_unfinished_or_incomplete_work_is_not_taken(made: RunDir, tmp_path: Path) -> None:
    """Promise: without its done.json, or with a file gone (as weights are in a fresh checkout), a stage is not shared."""
    (made.stage_dir("sft/train") / DONE_FILE).unlink()
    shutil.rmtree(made.stage_dir("iter0/train") / "checkpoint")
    run = RunDir(tmp_path / "other")
    paths = {one.stage.path for one in share(plan(small_recipe("other")), run, [made])}
    assert paths == {"sft/model", "prompts", "dpo/preferences"}


def test_other_bytes_under_the_same_identity_are_not_mixed(made: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: where this run made an input itself with other bytes, what was made from the others' is not taken, so verify holds."""
    run = RunDir(tmp_path / "other")
    stages = {stage.path: stage for stage in plan(small_recipe("other"))}
    share([stages["sft/model"], stages["prompts"]], run, [made])
    run.begin(stages["sft/train"], CPU, {})
    (run.stage_dir("sft/train") / "checkpoint").mkdir()
    (run.stage_dir("sft/train") / "checkpoint" / "model.safetensors").write_bytes(b"another computer's rounding")
    run.finish(stages["sft/train"], 1.0, 2.0)
    shared = {one.stage.path for one in share(stages.values(), run, [made])}
    assert shared == {"dpo/preferences"}
    assert verify(run)[0] == []


def test_accepted_work_stays_marked(made: RunDir, tmp_path: Path) -> None:
    """Promise: a stage somebody kept although its identity had changed carries that note into the run that shares it."""
    recipe = small_recipe()
    changed = replace(recipe, name="small", sampling=recipe.sampling.model_copy(update={"temperature": 0.5}))
    runner.accept(changed, made, "iter0/generate", "the same draws")
    run = RunDir(tmp_path / "other")
    share(plan(replace(changed, name="other")), run, [made])
    launch = read_model(Launch, run.stage_dir("iter0/generate") / "stage.json")
    assert [one.because for one in launch.accepted] == ["the same draws"]


def test_linked_files_survive_the_other_run(made: RunDir, tmp_path: Path) -> None:
    """Promise: removing the run that made a stage, or writing a new record there, leaves the sharing run whole."""
    run = RunDir(tmp_path / "other")
    share(plan(small_recipe("other")), run, [made])
    record = made.record("prompts")
    assert record is not None
    (made.stage_dir("prompts") / DONE_FILE).write_bytes(dump(record.model_copy(update={"seconds": 99.0})))
    ours = run.record("prompts")
    assert ours is not None
    assert ours.seconds == 1.0
    shutil.rmtree(made.path)
    assert verify(run)[:2] == ([], [])


def test_a_log_made_again_is_not_the_other_run_s(made: RunDir, tmp_path: Path) -> None:
    """Promise: what a repaired training adds to its log, line by line, does not change that of the run it was shared with."""
    run = RunDir(tmp_path / "other")
    share(plan(small_recipe("other")), run, [made])
    with open(run.stage_dir("iter0/train") / "log.jsonl", "a") as log:
        log.write("{}\n")
    assert verify(made)[0] == []


@pytest.mark.parametrize(("source", "is_shared"), [("path", False), ("random", True)])
def test_a_model_at_a_path_is_not_shared(source: Literal["path", "random"], is_shared: bool, tmp_path: Path) -> None:
    """Promise: a path may hold another model by now, so each run takes its own; a model that its recipe names wholly is shared."""
    model = ModelRef(source="path", name=str(tmp_path)) if source == "path" else load("tiny").sft_model
    stage = next(stage for stage in plan(replace(load("zephyr-7b"), name="mine", sft_model=model)) if stage.kind == "model")
    made, run = RunDir(tmp_path / "made"), RunDir(tmp_path / "run")
    made.begin(stage, CPU, {})
    write_atomic(made.stage_dir(stage.path) / "checkpoint/config.json", b"{}")
    made.finish(stage, 1.0, 1.0)
    assert [one.stage.path for one in share([stage], run, [made])] == [stage.path] * is_shared


def test_killed_while_linking(made: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: a launch that dies between linking and renaming leaves no stage behind; the next one shares it all and clears up."""
    run = RunDir(tmp_path / "other")
    stages = plan(small_recipe("other"))

    def die(path: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            share(stages, run, [made])
    assert {run.state(stage) for stage in stages} == {"missing"}
    assert len(share(stages, run, [made])) == len(stages)
    assert not (run.path / sharing.BESIDE).exists()
    assert verify(run)[0] == []


def test_across_disks_files_are_copied(made: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: where no hard link can be made the file is copied; other errors are not swallowed."""

    def refuse(source: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(sharing.os, "link", refuse)
    run = RunDir(tmp_path / "other")
    assert share(plan(small_recipe("other")), run, [made])
    assert verify(run)[:2] == ([], [])


def test_a_neighbours_word_is_not_taken(made: RunDir, tmp_path: Path) -> None:
    """Promise: what is a link out of the other run, is not what its record says, or states another identity than its spec, is left."""
    secret = tmp_path / "secret"
    (made.stage_dir("sft/model") / "checkpoint" / "model.safetensors").rename(secret)
    (made.stage_dir("sft/model") / "checkpoint" / "model.safetensors").symlink_to(secret)
    prompts = made.stage_dir("prompts") / "checkpoint" / "model.safetensors"
    prompts.write_bytes(bytes(len(prompts.read_bytes())))
    preferences = made.stage_dir("dpo/preferences") / "stage.json"
    text = json.loads(preferences.read_text())
    text["stage"]["spec"]["prompts"]["num_prompts"] += 1
    preferences.write_text(json.dumps(text))
    run = RunDir(tmp_path / "other")
    assert share(plan(small_recipe("other")), run, [made]) == []
    assert not run.path.exists() or not list(run.path.rglob("*.json"))
