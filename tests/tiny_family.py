"""A family of recipes small enough for tests: tiny's pieces, cut to a few prompts, one task and two iterations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.artifact import RunDir, Stage
from harness.files import digest, dump, write_atomic
from harness.machine import Machine
from harness.recipe import Benchmark, Finetuning, Iteration, Optimizer, PairTraining, Recipe, Task, load, replace
from harness.runs import launches
from harness.runs.sweeps import Sweep, seeded
from tests.synthetic_runs import score_of

ADAMW = Optimizer(name="adamw")
BENCHMARK = Benchmark(name="big_bench", protocol="current", tasks=(Task(name="tiny_mixed_sample", shots=0, metric="valid", limit=20),))


def small_recipe(name: str = "small") -> Recipe:
    """Two iterations on 32 prompts, a control, DPO on preferences, and DPO after the last iteration."""
    tiny = load("tiny")
    dpo = PairTraining(
        prompts=tiny.prompts.model_copy(update={"num_prompts": 16}),
        beta=1.0,
        learning_rate=1e-4,
        num_epochs=1,
        global_batch_size=8,
        optimizer=ADAMW,
    )
    return replace(
        tiny,
        name=name,
        prompts=tiny.prompts.model_copy(update={"num_prompts": 32}),
        pretraining=None,
        sft=Finetuning(learning_rate=3e-3, num_epochs=1, global_batch_size=8, optimizer=ADAMW),
        controls={"control": Finetuning(learning_rate=1e-3, global_batch_size=8, optimizer=ADAMW)},
        rivals={"dpo": dpo, "iter1+dpo": dpo.model_copy(update={"start": "iter1"})},
        iterations=(Iteration(beta=1.0, learning_rate=1e-4, pairs_from=(0,)), Iteration(beta=1.0, learning_rate=1e-4, pairs_from=(0, 1))),
        global_batch_size=8,
        benchmarks=(BENCHMARK,),
        accepted_checks=(),
    )


def small_sweep(seeds: int = 2) -> Sweep:
    """The recipe, the same without carried-over pairs, and the same with another loss."""
    base = small_recipe()
    fresh = replace(
        base,
        name="small-fresh",
        iterations=tuple(i.model_copy(update={"pairs_from": (t,)}) for t, i in enumerate(base.iterations)),
        controls={},
        rivals={},
    )
    hinge = replace(base, name="small-hinge", objective="spin_hinge", controls={}, rivals={})
    variants = {"spin": base, "fresh": fresh, "hinge": hinge}
    return Sweep(name="small-sweep", summary="a sweep for tests", variants={name: seeded(one, seeds) for name, one in variants.items()})


def fake_stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the stages' processes by one file each, made from the fingerprint; returns the fingerprints that ran, growing."""
    ran: list[str] = []

    def launch(stage: Stage, run: RunDir, machine: Machine, *_: object) -> float:
        run.begin(stage, machine, {"command": f"harness reproduce {run.path.name}"})
        for name, content in outputs(stage):
            write_atomic(run.stage_dir(stage.path) / name, content)
        run.finish(stage, 1.0, 2.0)
        ran.append(stage.fingerprint)
        return 1.0

    monkeypatch.setattr(launches, "launch", launch)
    return ran


def outputs(stage: Stage) -> list[tuple[str, bytes]]:
    """What a fake stage leaves: for an evaluation a score of 20 questions that depends on the model's identity."""
    if stage.kind != "evaluate":
        return [("checkpoint/model.safetensors", stage.fingerprint.encode())]
    draw = int(digest(stage.input_fingerprints)[:8], 16)
    values: dict[str, float | None] = {f"q{i}": 100.0 * ((draw >> i) & 1) for i in range(20)}
    return [(f"scores/{task.name}.json", dump(score_of(BENCHMARK, task, values))) for task in BENCHMARK.tasks]


def quiet(line: str) -> None:
    """An announcement nobody hears."""


def listening(lines: list[str]) -> Callable[[str], None]:
    """An announcement that is kept."""
    return lines.append


def stage_dirs(folder: Path) -> list[Path]:
    """Every stage found on disk below `folder`."""
    return [run / path for run in sorted(folder.iterdir()) if run.is_dir() for path in RunDir(run).stages()]
