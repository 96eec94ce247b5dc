"""The commands that look at what somebody else made: published checkpoints, judgments, this machine."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from harness import recipe as recipes
from harness.analysis import anchors as anchoring
from harness.artifact import RunDir
from harness.cli import doctor as doctors
from harness.cli import listings
from harness.cli.printing import (
    DryRunOption,
    FormatOption,
    MachineOption,
    OutOption,
    RecipeArg,
    announce,
    load,
    load_to_plan,
    out,
    plan_tables,
    show,
    show_json,
    table,
)
from harness.errors import MachineError
from harness.evaluation import mt_bench_ratings as judgments
from harness.report import tables as tabulating
from harness.runs import runner

app = typer.Typer()


@app.command()
def anchors(
    recipe: RecipeArg,
    out_dir: OutOption = None,
    machine: MachineOption = None,
    dry_run: DryRunOption = False,
    format: FormatOption = "text",
) -> None:
    """Evaluate the published checkpoints RECIPE names and set them beside their published figures: does our evaluation differ?"""
    loaded, place = load_to_plan(recipe, machine) if dry_run else load(recipe, machine)
    anchoring.require(loaded)
    run = RunDir(out_dir or Path("results") / loaded.name)
    planned = listings.plan_list(loaded, run, place) if dry_run else None
    if planned is None:
        runner.reproduce(loaded, run, place, None, announce)
        tabulating.write_tables(run.path)
    found = anchoring.compare(loaded, run.path)
    notes, conclusions = anchoring.notes(loaded), anchoring.conclusions(found)
    if format == "json":
        show_json({"plan": planned, "notes": notes, "comparisons": [one._asdict() for one in found], "conclusions": conclusions})
        return
    if planned:
        out.print(plan_tables(planned))
    out.print(table(f"{loaded.name}: the same weights, evaluated here and there", anchoring.rows(found)))
    for line in (*notes, *conclusions):
        out.print(line, markup=False)


@app.command(name="import-judgments")
def import_judgments(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="FastChat's *_single.jsonl, plain or .gz.")],
    format: FormatOption = "text",
) -> None:
    """Re-read MT-Bench verdicts made elsewhere: means by model, turn and category, and how many cannot be read."""
    found = judgments.summarize(judgments.read_judgments(files))
    if format == "json":
        show_json(found)
    else:
        show("judgments, points of 10", judgments.rows(found), format)


@app.command()
def doctor(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="Check also what this recipe needs.")] = None,
    format: FormatOption = "text",
) -> None:
    """Check Python, packages, caches, disk, keys (by presence alone) and judges; exit code 1 where something is missing."""
    loaded = recipes.load(recipe) if recipe else None
    findings = doctors.examine(doctors.Context(loaded, Path("results"), date.today()))
    show("doctor", doctors.listing(findings), format)
    errors = [finding.check for finding in findings if finding.state == "error"]
    if errors:
        raise MachineError(f"{len(errors)} thing(s) to mend: {', '.join(errors)}")
