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
from harness.cli.preflight import Context, context_for
from harness.cli.printing import (
    CHECK,
    COMPARE,
    LOOK,
    DryRunOption,
    FormatOption,
    MachineOption,
    OutOption,
    RecipeArg,
    announce,
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
from harness.runs import hardware, runner

app = typer.Typer()


@app.command(rich_help_panel=COMPARE)
def anchors(
    recipe: RecipeArg,
    out_dir: OutOption = None,
    machine: MachineOption = None,
    dry_run: DryRunOption = False,
    format: FormatOption = "text",
) -> None:
    """Evaluate the published checkpoints RECIPE names and set them beside their published figures: does our evaluation differ?"""
    loaded = recipes.load(recipe)
    anchoring.require(loaded)
    run = RunDir(out_dir or Path("results") / loaded.name)
    planned = listings.plan_list(loaded, run, load_to_plan(recipe, machine)[1]) if dry_run else None
    if planned is None:
        runner.reproduce(loaded, run, doctors.ready_machine(loaded, machine, run.path), None, announce)
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


@app.command(name="import-judgments", rich_help_panel=CHECK)
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


@app.command(name="machines", rich_help_panel=LOOK)
def machines_(format: FormatOption = "text") -> None:
    """List the machines shipped, and what was found on this computer."""
    here = hardware.look()
    if format == "json":
        show_json({"shipped": listings.machine_list(), "found": {**here._asdict(), "gpus": [gpu._asdict() for gpu in here.gpus]}})
    else:
        show("machines", listings.machine_list(), format)
        out.print(f"found here: {here}; without --machine a recipe gets what follows from that (docs/hardware.md)", markup=False)


@app.command(rich_help_panel=CHECK)
def doctor(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="Check also what this recipe needs.")] = None,
    machine: MachineOption = None,
    format: FormatOption = "text",
) -> None:
    """Check Python, packages, caches, disk, keys (by presence alone) and judges; exit code 1 where something is missing.

    With RECIPE also devices, memory, launcher, peak disk, model and data, as `reproduce` does before it starts.
    """
    context = context_for(recipes.load(recipe), machine) if recipe else Context(None, Path("results"), date.today())
    findings = doctors.examine(context)
    show("doctor", doctors.listing(findings), format)
    errors = [finding.check for finding in findings if finding.state == "error"]
    if errors:
        raise MachineError(f"{len(errors)} thing(s) to mend: {', '.join(errors)}")
