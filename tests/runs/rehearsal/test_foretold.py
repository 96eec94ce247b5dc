"""What a rehearsal foretells follows from two measured paces by arithmetic that can be done by hand, and `plan` quotes it marked."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.artifact import RunDir
from harness.cli.listings import plan_list
from harness.cli.printing import plan_tables
from harness.files import write_atomic, write_jsonl
from harness.machine import Machine, load
from harness.plan import plan, steps_of
from harness.recipe import Recipe, replace
from harness.recipe import load as load_recipe
from harness.runs.needs.costs import estimate
from harness.runs.rehearsal import foretold
from harness.runs.rehearsal.cut import cut
from harness.runs.rehearsal.foretold import Rehearsal

A100X8 = load("a100x8")
TINY = load_recipe("tiny")
RECIPE: Recipe = replace(TINY, name="mine", sizes=TINY.sizes.model_copy(update={"num_parameters": 7e9}))
TRAINED, GENERATED = 20_000.0, 300.0
"""Tokens a second that the fakes below show: of all devices together, and of one."""


def rehearsed(folder: Path, *, random_weights: bool = False, machine: Machine = A100X8) -> Rehearsal:
    """A rehearsal whose stages are fakes: a slow first step and shard, then the paces above; 50 GB on a device that trains."""
    short, run = cut(RECIPE), RunDir(folder)
    foretold.begin(folder, RECIPE, machine, random_weights=random_weights)
    for stage in plan(short):
        run.begin(stage, machine, {})
        directory = run.stage_dir(stage.path)
        if stage.kind == "train":
            steps = [{"step": step, "tokens": 1000, "seconds": 1000 / TRAINED if step else 60.0, "peak_memory_gb": 50.0} for step in (0, 1)]
            write_atomic(directory / "log.jsonl", "".join(json.dumps(step) + "\n" for step in steps).encode())
        for shard in range(2 * machine.num_replicas if stage.kind == "generate" else 0):
            path = directory / "responses" / f"{shard:05}.jsonl"
            write_jsonl(path, [{"num_tokens": 100}])
            is_second = shard >= machine.num_replicas
            os.utime(path, (0, 1000.0 + (100 / GENERATED if is_second else 0.0)))
        run.finish(stage, 12.0, 3000.0)
    return foretold.finish(folder, RECIPE, short)


def test_the_paces_are_of_warm_engines(tmp_path: Path) -> None:
    """Promise: neither a training's first step nor an engine's first shard counts, in which kernels are compiled and weights loaded."""
    found = rehearsed(tmp_path)
    assert found.train_tokens_per_second == pytest.approx(TRAINED)
    assert found.generate_tokens_per_second == pytest.approx(GENERATED)


def test_hours_by_hand(tmp_path: Path) -> None:
    """Promise: tokens of the whole stage over the pace measured; a stage's own seconds where the rehearsal's is no shorter."""
    lines = {line.path: line for line in rehearsed(tmp_path).stages}
    drawn = RECIPE.prompts.num_prompts * RECIPE.sizes.generated_tokens
    assert lines["iter0/generate"].foretold_hours == pytest.approx(drawn / (8 * GENERATED) / 3600)
    assert lines["sft/model"].foretold_hours == pytest.approx(12.0 / 3600)
    stage = next(stage for stage in plan(RECIPE) if stage.path == "control/train")
    cost = estimate(RECIPE, stage, A100X8)
    assert lines["control/train"].foretold_hours == pytest.approx(cost.tokens / TRAINED / 3600)
    assert steps_of(RECIPE, 0) > 2


def test_memory_is_a_device_s_where_it_is_known(tmp_path: Path) -> None:
    """Promise: a training on GPUs shows its device's peak, everything else its process's, and the line says which."""
    lines = {line.path: line for line in rehearsed(tmp_path).stages}
    assert (lines["iter0/train"].memory_gb, lines["iter0/train"].is_device) == (50.0, True)
    assert (lines["prompts"].memory_gb, lines["prompts"].is_device) == (3.0, False)


def test_random_weights_foretell_nothing(tmp_path: Path) -> None:
    """Promise: neither a pace nor an hour."""
    found = rehearsed(tmp_path, random_weights=True)
    assert (found.train_tokens_per_second, found.generate_tokens_per_second) == (None, None)
    assert {line.foretold_hours for line in found.stages} == {None}


def test_plan_quotes_it_marked_and_for_this_machine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: hours and device memory with a +, in the sum as well; nothing on another machine, of another recipe or random weights."""
    monkeypatch.chdir(tmp_path)
    run = RunDir(tmp_path / "results" / RECIPE.name)
    before = plan_list(RECIPE, run, A100X8)
    assert {row["rehearsed_hours"] for row in before["stages"]} == {None}
    found = rehearsed(foretold.folder_for(RECIPE, A100X8, random_weights=False))
    rows = {row["path"]: row for row in plan_list(RECIPE, run, A100X8)["stages"]}
    assert {path: row["rehearsed_hours"] for path, row in rows.items()} == {line.path: line.foretold_hours for line in found.stages}
    assert rows["iter0/train"]["rehearsed_memory_gb"] == 50.0
    total = plan_list(RECIPE, run, A100X8)["totals"]
    assert total["hours"] == pytest.approx(sum(row["rehearsed_hours"] or row["hours"] for row in rows.values()))
    shown = [str(part) for part in plan_tables(plan_list(RECIPE, run, A100X8)).renderables]
    assert any(part.startswith("+ what `harness rehearse` measured") for part in shown)
    other = A100X8.model_copy(update={"micro_batch": 4})
    assert foretold.quoted(RECIPE, other) == {}
    changed = replace(RECIPE, name="mine", global_batch_size=2 * RECIPE.global_batch_size)
    assert foretold.quoted(changed, A100X8).keys().isdisjoint(stage.fingerprint for stage in plan(changed) if stage.path == "iter0/train")
    rehearsed(foretold.folder_for(RECIPE, A100X8, random_weights=False), random_weights=True)
    assert foretold.quoted(RECIPE, A100X8) == {}
