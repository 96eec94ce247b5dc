"""What a rehearsal took, and what that foretells of the run: `rehearsal.json` in its directory, which `harness plan` quotes.

Two paces are measured and stand in for the machine's assumed ones in the estimates (harness/runs/needs/costs.py): useful tokens a second of
training, without each training's first step, and generated tokens a second, without each engine's first shard, in which it is loaded. Two
questions a task say nothing of a pace, so evaluations follow from these two. Peak memory is that of the longest rows; what a GPU holds is
known of trainings alone. From random weights nothing follows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.artifact import LOG_FILE, RECIPE_FILE, REHEARSAL_FILE, RunDir, Stage
from harness.config import Strict
from harness.errors import InputError
from harness.files import dump, read_jsonl, read_model, write_atomic
from harness.machine import Machine, recorded
from harness.plan import plan
from harness.recipe import Recipe
from harness.runs.needs.costs import devices_of, estimate

FOLDER = Path("rehearsals")


class Line(Strict):
    """Of a stage: `fingerprint` is that of the run's stage, `memory_gb` of a device or, outside of training on GPUs, of the process."""

    path: str
    fingerprint: str
    seconds: float
    memory_gb: float
    is_device: bool
    foretold_hours: float | None


class Rehearsal(Strict):
    """`rehearsal.json`: the machine, whether the weights were random, the two paces where they are known, and a line a stage."""

    recipe: str
    machine: Machine
    random_weights: bool
    train_tokens_per_second: float | None = None
    generate_tokens_per_second: float | None = None
    stages: tuple[Line, ...] = ()


class Pace(NamedTuple):
    """Tokens in some seconds."""

    tokens: float
    seconds: float


def folder_for(recipe: Recipe, machine: Machine, *, random_weights: bool) -> Path:
    """Where a rehearsal lies unless a directory is named."""
    return FOLDER / recipe.name / (f"{machine.name}-random-weights" if random_weights else machine.name)


def refuse_run(folder: Path) -> None:
    """Raise `InputError` where `folder` is a run's and not a rehearsal's."""
    if (folder / RECIPE_FILE).exists() and not (folder / REHEARSAL_FILE).exists():
        raise InputError(f"{folder} is a run, which a rehearsal would mark as its own; name another directory with --out")


def begin(folder: Path, recipe: Recipe, machine: Machine, *, random_weights: bool) -> None:
    """Mark `folder` as a rehearsal's, which no command takes for a run's."""
    found = Rehearsal(recipe=recipe.name, machine=recorded(machine), random_weights=random_weights)
    write_atomic(folder / REHEARSAL_FILE, dump(found))


def finish(folder: Path, recipe: Recipe, short: Recipe) -> Rehearsal:
    """Measure the rehearsal `short` of `recipe` in `folder`, and write that down."""
    run, begun = RunDir(folder), read_model(Rehearsal, folder / REHEARSAL_FILE)
    measured = begun if begun.random_weights else begun.model_copy(update=_paces(run, plan(short)))
    lines = tuple(_line(run, stage, recipe, measured) for stage in plan(recipe) if run.record(stage.path))
    found = measured.model_copy(update={"stages": lines})
    write_atomic(folder / REHEARSAL_FILE, dump(found))
    return found


def _paces(run: RunDir, stages: Sequence[Stage]) -> dict[str, float | None]:
    trained = [pace for stage in stages if stage.kind == "train" for pace in _steps(run, stage)]
    generated = [pace for stage in stages if stage.kind == "generate" for pace in _shards(run, stage)]
    return {"train_tokens_per_second": _rate(trained), "generate_tokens_per_second": _rate(generated)}


def quoted(recipe: Recipe, machine: Machine) -> dict[str, Line]:
    """{fingerprint: line} of what a rehearsal of `recipe` on this very machine has measured, the weights not random; empty without one."""
    path = folder_for(recipe, machine, random_weights=False) / REHEARSAL_FILE
    found = read_model(Rehearsal, path) if path.exists() else None
    if found is None or found.machine != recorded(machine) or found.random_weights:
        return {}
    return {line.fingerprint: line for line in found.stages}


def _line(run: RunDir, stage: Stage, recipe: Recipe, measured: Rehearsal) -> Line:
    record = run.record(stage.path)
    assert record is not None
    device = [line["peak_memory_gb"] for line in _log(run, stage.path)] if measured.machine.device == "cuda" else []
    return Line(
        path=stage.path,
        fingerprint=stage.fingerprint,
        seconds=record.seconds,
        memory_gb=max(device, default=record.peak_memory_mb / 1e3),
        is_device=bool(device),
        foretold_hours=_foretold(recipe, stage, measured, record.seconds),
    )


def _foretold(recipe: Recipe, stage: Stage, measured: Rehearsal, seconds: float) -> float | None:
    """Hours of the run's stage; None where nothing that was measured decides them."""
    if measured.random_weights:
        return None
    if stage.kind == "model":
        return seconds / 3600  # the rehearsal's was no shorter
    machine, billions = measured.machine, recipe.sizes.num_parameters / 1e9
    changes = {}
    if measured.train_tokens_per_second:
        flops = 6 * recipe.sizes.num_parameters * measured.train_tokens_per_second
        changes["mfu"] = flops / (machine.peak_tflops * 1e12 * machine.num_devices)
    if measured.generate_tokens_per_second:
        changes["generate_tokens_per_second"] = measured.generate_tokens_per_second * billions
    cost = estimate(recipe, stage, machine.model_copy(update=changes))
    return cost.hours if len(changes) == 2 and cost.hours else None


def _steps(run: RunDir, stage: Stage) -> Iterator[Pace]:
    for line in _log(run, stage.path):
        if line["step"] > 0:
            yield Pace(line["tokens"], line["seconds"])


def _shards(run: RunDir, stage: Stage) -> Iterator[Pace]:
    """From the moment each engine has answered a shard to the last answer: tokens a device, since there are as many as `devices_of`."""
    launch = run.launch(stage.path)
    assert launch is not None
    paths = sorted((run.stage_dir(stage.path) / "responses").glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    loaded, later = paths[: launch.machine.num_replicas], paths[launch.machine.num_replicas :]
    if later:
        seconds = (later[-1].stat().st_mtime_ns - loaded[-1].stat().st_mtime_ns) / 1e9
        tokens = sum(line["num_tokens"] for path in later for line in read_jsonl(path))
        yield Pace(tokens / devices_of(stage, launch.machine), seconds)


def _rate(paces: Sequence[Pace]) -> float | None:
    """Tokens a second of all together."""
    seconds = sum(pace.seconds for pace in paces)
    return sum(pace.tokens for pace in paces) / seconds if seconds else None


def _log(run: RunDir, stage_path: str) -> list[dict[str, float]]:
    path = run.stage_dir(stage_path) / LOG_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
