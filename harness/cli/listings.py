"""What the listing commands show, as plain data: the same rows go to the terminal and to `--format json`.

Layouts (stable; a new field may be added, none is renamed):

    recipes   [{name, summary, model, iterations, file}]
    machines  {shipped: [{name, summary, devices, device_gb, sharding, micro_batch}],
              found: {gpus: [{name, memory_gb, capability}], num_cpus, memory_gb}}
    plan      {recipe, machine, stages: [{path, kind, state, fingerprint, inputs, tokens, flops, hours, device_hours, memory_gb,
              disk_gb, judge_calls, paper_hours: all estimates; measured_hours: of a finished stage; rehearsed_hours,
              rehearsed_memory_gb: foretold by a rehearsal on this machine}],
              totals: {estimates summed, hours and device_hours as they are known best, memory_gb the largest},
              assumptions: [what the estimates rest on], warnings: [too little memory, no judge, or one past or near its shutdown],
              schedule, deviations}
    schedule  [{iteration, opponent, pairs_from, pairs, beta, learning_rate, epochs, steps}]
    status    [{path, state, seconds, peak_memory_mb, outputs, job: its job in Slurm's queue, or null}]
              state: done, running, partial, missing or stale; of a sweep [{run, stages, done, running, partial, missing, stale, seconds}]
    fetch     [{repository, revision, file, size, cached}]
    diff      [{field, left, right, left_reason, right_reason}]
    deviations [{field, kind, stated, used, source, where, reason}]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal

from harness import machine as machines
from harness import recipe as recipes
from harness.analysis.deviations import Listing, reason_for
from harness.artifact import RECIPE_FILE, RunDir, Stage, read_recipe
from harness.config import defines, flatten
from harness.evaluation.judge_shutdowns import judges_of, not_chosen, warning
from harness.machine import Machine
from harness.plan import plan, steps_of
from harness.recipe import Recipe
from harness.rows import opponent_of
from harness.runs import lock, sweeps
from harness.runs.needs import memory
from harness.runs.needs.costs import Cost, checkpoint_gb, estimate
from harness.runs.rehearsal.foretold import quoted
from harness.runs.runner import select, survey
from harness.runs.slurm.queue import queued
from harness.runs.sweeps import is_sweep


def recipe_list() -> Listing:
    """A row for each shipped recipe."""
    found = []
    for name, path in recipes.available().items():
        loaded = recipes.load(name)
        found.append(
            {
                "name": name,
                "summary": loaded.summary,
                "model": loaded.sft_model.name,
                "iterations": len(loaded.iterations),
                "file": f"recipes/{path.name}",
            }
        )
    return found


def machine_list() -> Listing:
    """A row for each shipped machine."""
    found = []
    for name in machines.available():
        machine = machines.load(name)
        found.append(
            {
                "name": name,
                "summary": machine.summary,
                "devices": machine.num_devices,
                "device_gb": machine.memory_gb,
                "sharding": machine.sharding,
                "micro_batch": machine.micro_batch,
            }
        )
    return found


def schedule(recipe: Recipe) -> Listing:
    """A row for each iteration: who plays whom, on which pairs, how hard and how long."""
    return [
        {
            "iteration": t,
            "opponent": opponent_of(t),
            "pairs_from": list(iteration.pairs_from),
            "pairs": recipe.prompts.num_prompts * len(iteration.pairs_from),
            "beta": iteration.beta,
            "learning_rate": iteration.learning_rate,
            "epochs": f"{iteration.stop_after_epochs} of {iteration.schedule_epochs}",
            "steps": steps_of(recipe, t),
        }
        for t, iteration in enumerate(recipe.iterations)
    ]


def plan_list(recipe: Recipe, run: RunDir, machine: Machine, only: str | None = None) -> dict[str, Any]:
    """Every stage, or those that match the glob `only`, with its state, lineage and estimated cost, and the sums."""
    stages, rehearsed, found = [], quoted(recipe, machine), survey(recipe, run)
    states = {stage.path: state for stage, state in found}
    for stage in select([one.stage for one in found], only):
        state = states[stage.path]
        cost, line = estimate(recipe, stage, machine), rehearsed.get(stage.fingerprint)
        stages.append(
            {
                "path": stage.path,
                "kind": stage.kind,
                "state": state,
                "fingerprint": stage.fingerprint,
                "inputs": stage.inputs,
                **cost._asdict(),
                "measured_hours": _measured_hours(run, stage, state),
                "rehearsed_hours": line.foretold_hours if line else None,
                "rehearsed_memory_gb": line.memory_gb if line and line.is_device else None,
            }
        )
    totals: dict[str, float] = {name: sum(stage[name] or 0 for stage in stages) for name in Cost._fields}
    totals["memory_gb"] = max(stage["rehearsed_memory_gb"] or stage["memory_gb"] for stage in stages)
    for name in ("hours", "device_hours"):
        totals[name] = sum(known(stage, name) for stage in stages)
    judges = [warning(judge, date.today()) for judge in judges_of(recipe.benchmarks)]
    warnings = list(filter(None, (memory.refusal(recipe, machine), not_chosen(recipe.benchmarks), *judges)))
    told = {"assumptions": assumptions(recipe, machine), "warnings": warnings}
    return {"recipe": recipe.name, "machine": machine.name, "stages": stages, "totals": totals, **told}


def known(row: Mapping[str, Any], name: Literal["hours", "device_hours"]) -> float:
    """The hours of a stage of `plan_list`, the best there are: measured of a finished stage, foretold by a rehearsal, estimated."""
    best = row["measured_hours"] or row["rehearsed_hours"]
    estimated: float = row[name]
    return best * (row["device_hours"] / row["hours"] if name == "device_hours" and row["hours"] else 1.0) if best else estimated


def assumptions(recipe: Recipe, machine: Machine) -> list[str]:
    """What the estimates rest on, a line each."""
    state_gb = max((checkpoint_gb(recipe) * (3 if one == "adamw" else 2) for one in _optimizers(recipe)), default=0.0)
    return [
        f"hours guess {machine.mfu:.0%} of {machine.peak_tflops:g} TFLOPS a device (mfu {machine.mfu:g}) in training and scoring, "
        f"{machine.generate_tokens_per_second:g} tokens a second and device of a model of 1B in generation",
        "scoring counts reading the questions alone: tasks with generated answers, such as gsm8k and big_bench, take longer",
        f"while a stage trains, two states of {state_gb:.3g} GB each come and go on the disk, {2 * state_gb:.3g} GB at the peak",
    ]


def _optimizers(recipe: Recipe) -> list[str]:
    return [stage.spec["optimizer"]["name"] for stage in plan(recipe) if stage.kind == "train"]


def _measured_hours(run: RunDir, stage: Stage, state: str) -> float | None:
    """What a finished stage took."""
    record = run.record(stage.path) if state == "done" else None
    return record.seconds / 3600 if record else None


def planned_runs(name: str, out_dir: Path | None) -> list[tuple[Recipe, RunDir]]:
    """The recipe `name` and its directory, or every recipe of the sweep `name`: its name, its file, or the directory of either."""
    folder = Path(name)
    if is_sweep(folder):
        record = sweeps.read_sweep(folder)
        shipped = {one.name: one for one in (sweeps.load(record.name).recipes if record.name in sweeps.available() else ())}
        return [(shipped.get(run.name) or read_recipe(run), RunDir(run)) for run in record.folders(folder)]
    if (name in sweeps.available() and name not in recipes.available()) or defines(folder, "sweep"):
        sweep = sweeps.load(name)
        return [(recipe, RunDir((out_dir or Path("results") / sweep.name) / recipe.name)) for recipe in sweep.recipes]
    if (folder / RECIPE_FILE).is_file():
        return [(read_recipe(folder), RunDir(folder))]
    loaded = recipes.load(name)
    return [(loaded, RunDir(out_dir or Path("results") / loaded.name))]


def status_list(recipe: Recipe, run: RunDir) -> Listing:
    """What stands on disk for each planned stage."""
    found, running, jobs = [], lock.running(run.path), queued(run)
    for stage, state in survey(recipe, run):
        record = run.record(stage.path) if state == "done" else None
        found.append(
            {
                "path": stage.path,
                "state": "running" if state == "partial" and stage.path in running else state,
                "seconds": record.seconds if record else None,
                "peak_memory_mb": record.peak_memory_mb if record else None,
                "outputs": len(record.outputs) if record else None,
                "job": str(jobs[stage.path]) if stage.path in jobs else None,
            }
        )
    return found


STATES = ("done", "running", "partial", "missing", "stale")


def run_status_list(planned: Sequence[tuple[Recipe, RunDir]]) -> Listing:
    """A row a run of a sweep: how many of its stages are in each state, and the seconds of work in it."""
    found = []
    for recipe, run in planned:
        stages = status_list(recipe, run)
        counts = {state: sum(stage["state"] == state for stage in stages) for state in STATES}
        seconds = sum(stage["seconds"] or 0.0 for stage in stages)
        found.append({"run": recipe.name, "stages": len(stages), **counts, "seconds": round(seconds, 1)})
    return found


def diff_list(left: Recipe, right: Recipe) -> Listing:
    """The fields in which two recipes differ, with the reasons each gives."""
    ignored = ("name", "summary", "because")
    a, b = flatten(left), flatten(right)
    return [
        {
            "field": field,
            "left": a.get(field),
            "right": b.get(field),
            "left_reason": reason_for(left, field),
            "right_reason": reason_for(right, field),
        }
        for field in sorted({*a, *b})
        if field.split(".")[0] not in ignored and a.get(field) != b.get(field)
    ]
