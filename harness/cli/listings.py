"""What the listing commands show, as plain data: the same rows go to the terminal and to `--format json`.

Layouts (stable; a new field may be added, none is renamed):

    recipes   [{name, summary, model, iterations, file}]
    machines  {shipped: [{name, summary, devices, device_gb, sharding, micro_batch}],
              found: {gpus: [{name, memory_gb, capability}], num_cpus, memory_gb}}
    plan      {recipe, machine, stages: [{path, kind, state, fingerprint, inputs, tokens, flops, hours, device_hours, memory_gb,
              disk_gb, judge_calls, paper_hours}], totals: {the same summed, memory_gb the largest},
              warnings: [too little memory, no judge, or one past or near its shutdown],
              schedule, deviations}
    schedule  [{iteration, opponent, pairs_from, pairs, beta, learning_rate, epochs, steps}]
    status    [{path, state, seconds, peak_memory_mb, outputs, job: its job in Slurm's queue, or null}]
    fetch     [{repository, revision, file, size, cached}]
    diff      [{field, left, right, left_reason, right_reason}]
    deviations [{field, kind, stated, used, source, where, reason}]
"""

from __future__ import annotations

from datetime import date
from typing import Any

from harness import machine as machines
from harness import recipe as recipes
from harness.analysis.deviations import Listing, reason_for
from harness.artifact import RunDir
from harness.config import flatten
from harness.evaluation.judge_shutdowns import judges_of, not_chosen, warning
from harness.machine import Machine
from harness.plan import steps_of
from harness.recipe import Recipe
from harness.rows import opponent_of
from harness.runs import memory
from harness.runs.costs import Cost, estimate
from harness.runs.runner import survey
from harness.runs.slurm import queued


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


def plan_list(recipe: Recipe, run: RunDir, machine: Machine) -> dict[str, Any]:
    """Every stage with its state, lineage and estimated cost, and the sums."""
    stages = []
    for stage, state in survey(recipe, run):
        cost = estimate(recipe, stage, machine)
        stages.append(
            {
                "path": stage.path,
                "kind": stage.kind,
                "state": state,
                "fingerprint": stage.fingerprint,
                "inputs": stage.inputs,
                **cost._asdict(),
            }
        )
    totals: dict[str, float] = {name: sum(stage[name] or 0 for stage in stages) for name in Cost._fields}
    totals["memory_gb"] = max(stage["memory_gb"] for stage in stages)
    judges = [warning(judge, date.today()) for judge in judges_of(recipe.benchmarks)]
    warnings = list(filter(None, (memory.refusal(recipe, machine), not_chosen(recipe.benchmarks), *judges)))
    return {"recipe": recipe.name, "machine": machine.name, "stages": stages, "totals": totals, "warnings": warnings}


def status_list(recipe: Recipe, run: RunDir) -> Listing:
    """What stands on disk for each planned stage."""
    found, jobs = [], queued(run)
    for stage, state in survey(recipe, run):
        record = run.record(stage.path) if state == "done" else None
        found.append(
            {
                "path": stage.path,
                "state": state,
                "seconds": record.seconds if record else None,
                "peak_memory_mb": record.peak_memory_mb if record else None,
                "outputs": len(record.outputs) if record else None,
                "job": str(jobs[stage.path]) if stage.path in jobs else None,
            }
        )
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
