"""The commands that run families of recipes, and carry pairs in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness import machine as machines
from harness.artifact import RunDir, read_recipe
from harness.cli.doctor import refuse_unready
from harness.cli.printing import (
    PUBLISH,
    RUN,
    IterationArg,
    MachineOption,
    OutOption,
    RecipeArg,
    RunArg,
    TrackOption,
    announce,
    load_to_plan,
    out,
    table,
)
from harness.files import hash_content
from harness.report.tables import print_tables, write_sweep_tables
from harness.runs import exchange, sweeps
from harness.runs.pair_files import Layout

app = typer.Typer()


@app.command(rich_help_panel=RUN)
def sweep(
    file: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's name, or a Python file that defines `sweep`.")],
    out_dir: Annotated[Path | None, typer.Option("--out", help="The sweep's directory (default: results/SWEEP).")] = None,
    machine: MachineOption = None,
    track: TrackOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be made and what is shared, and run nothing.")] = False,
) -> None:
    """Run every recipe of SWEEP, each stage that several share only once, and print the variants side by side."""
    loaded = sweeps.load(file)
    place = machines.with_tracker(machines.load(machine) if machine else sweeps.default_machine(loaded), track)
    for recipe in loaded.recipes:
        machines.check(place, recipe)
    folder = out_dir or Path("results") / loaded.name
    out.print(table(f"{loaded.name}: runs", list(sweeps.run_list(loaded))))
    out.print(table(f"{loaded.name}: stages", sweeps.shared_list(loaded)))
    if not dry_run:
        for recipe in loaded.recipes:
            refuse_unready(recipe, place, folder / recipe.name)
        sweeps.run(loaded, folder, place, announce)
        print_tables(write_sweep_tables(folder), out)


@app.command(rich_help_panel=PUBLISH)
def export(
    run: RunArg,
    iteration: IterationArg,
    out_dir: Annotated[Path, typer.Option("--out", help="A new directory for the data set.")],
    layout: Annotated[Layout, typer.Option("--layout", help="ucla: real, generated; trl: prompt, chosen, rejected.")] = "ucla",
    license: Annotated[str, typer.Option("--license", help="Of the data set, as the Hub names it: mit, cc-by-4.0, ...")] = "unknown",
) -> None:
    """Write an iteration's pairs as a data set for other tools (parquet, splits train and test)."""
    count = exchange.export(RunDir(run), read_recipe(run), iteration, layout, out_dir, license)
    announce(f"{out_dir}: {', '.join(f'{split} {num} pairs' for split, num in count.items())}")


@app.command(rich_help_panel=RUN)
def import_pairs(
    recipe: RecipeArg,
    iteration: IterationArg,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A file, a directory, or OWNER/NAME@REVISION on the Hub.")],
    because: Annotated[str, typer.Option("--because", help="The reason, kept beside the pairs and shown in tables.")],
    split: Annotated[str, typer.Option("--split", help="Which split; train+test joins two.")] = "train",
    out_dir: OutOption = None,
) -> None:
    """Train an iteration of RECIPE on pairs made elsewhere, such as the released SPIN sets."""
    loaded, place = load_to_plan(recipe, None)
    run = RunDir(out_dir or Path("results") / loaded.name)
    announce(f"{exchange.import_pairs(loaded, run, place, iteration, source, split, because)} pairs are iter{iteration}'s in {run.path}")


@app.command(rich_help_panel=RUN)
def pin(path: Annotated[Path, typer.Argument(metavar="FILE", help="A data file or folder.")]) -> None:
    """Print the sha256 of a file's or folder's content: the `revision` of a source `local`."""
    out.print(hash_content(path), markup=False)
