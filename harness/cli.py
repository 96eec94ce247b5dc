"""The command line: parse, call one function, print. It selects; it never tunes."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness import bundle as bundling
from harness import cli_report, listing, runner
from harness import explain as explaining
from harness import machine as machines
from harness import recipe as recipes
from harness import tables as tabulating
from harness import watch as watching
from harness.artifact import RunDir
from harness.cli_report import Format, FormatOption, RunArg
from harness.errors import HarnessError, InputError, MachineError
from harness.machine import Machine
from harness.recipe import Recipe

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(cli_report.app)
out = Console(soft_wrap=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)

RecipeArg = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name, or a Python file that defines `recipe`.")]
RunOrBundleArg = Annotated[Path, typer.Argument(metavar="RUN|BUNDLE", help="A run's directory, or what `harness bundle` wrote.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="The run's directory (default: results/RECIPE).")]
MachineOption = Annotated[
    str | None, typer.Option("--machine", help="A machine's name or file (default: the smallest shipped one that holds the model).")
]


def main() -> None:
    """The console script: a user's mistake is one line and exit code 1, never a traceback."""
    try:
        app()
    except HarnessError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _fail("disk full; nothing finished is lost: free space and run the same command again")


@app.command(context_settings={"help_option_names": []})
def reproduce(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="A recipe's name or file.")] = None,
    out_dir: OutOption = None,
    machine: MachineOption = None,
    only: Annotated[str | None, typer.Option("--only", help="Run only the stages whose path matches this glob.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run, and run nothing.")] = False,
    help_: Annotated[bool, typer.Option("--help", help="Show this message, or with RECIPE its iteration schedule.")] = False,
) -> None:
    """Generate, train and evaluate every iteration of RECIPE, then print the tables. Finished work is never redone."""
    if help_ or recipe is None:
        _help(context, recipe)
        return
    loaded, place = _load(recipe, machine)
    run = RunDir(out_dir or Path("results") / loaded.name)
    if dry_run:
        _print_plan(listing.plan_list(loaded, run, place))
        return
    ran = runner.reproduce(loaded, run, place, only, _announce)
    if only is None:
        tabulating.write_tables(run.path)
    tabulating.print_tables(tabulating.collect(run.path), out)
    _announce(f"{ran} stage(s) ran; everything is in {run.path}")


@app.command()
def plan(recipe: RecipeArg, out_dir: OutOption = None, machine: MachineOption = None, format: FormatOption = "text") -> None:
    """Show the stages of RECIPE: lineage, state, and estimated cost beside the paper's own times."""
    loaded, place = _load(recipe, machine)
    found = listing.plan_list(loaded, RunDir(out_dir or Path("results") / loaded.name), place)
    if format == "json":
        _json({**found, "schedule": listing.schedule(loaded), "deviations": listing.deviation_list(loaded)})
        return
    out.print(_table(f"{loaded.name}: iterations", listing.schedule(loaded)))
    _print_plan(found)
    out.print(_table("where it parts from the paper's text, or fills a gap in it", listing.deviation_list(loaded)))


@app.command()
def status(
    recipe: RecipeArg,
    out_dir: OutOption = None,
    format: FormatOption = "text",
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing it, with each stage's progress, until all is done.")] = False,
) -> None:
    """Show what is done, partial, missing or stale."""
    loaded = recipes.load(recipe)
    run = RunDir(out_dir or Path("results") / loaded.name)
    if watch:
        watching.watch(loaded, run, out)
    else:
        _show(f"{loaded.name}: stages", listing.status_list(loaded, run), format)


@app.command(name="recipes")
def recipes_(format: FormatOption = "text") -> None:
    """List the recipes."""
    _show("recipes", listing.recipe_list(), format)


@app.command()
def diff(left: RecipeArg, right: RecipeArg, format: FormatOption = "text") -> None:
    """Show the fields in which two recipes part, with their reasons."""
    a, b = recipes.load(left), recipes.load(right)
    _show(f"{a.name} (left) and {b.name} (right)", listing.diff_list(a, b), format)


@app.command()
def tables(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="One run's directory, or several to combine (seeds).")],
    format: Annotated[Literal["text", "json", "markdown", "latex", "csv"], typer.Option("--format", help="How to print.")] = "text",
    write: Annotated[bool, typer.Option("--write", help="Renew the files in RUN/tables of every run instead.")] = False,
) -> None:
    """Rebuild the tables from the committed records alone."""
    if write:
        for path in (path for run in runs for path in tabulating.write_tables(run)):
            out.print(str(path), markup=False)
        return
    table = tabulating.collect(runs[0]) if len(runs) == 1 else tabulating.combine(runs)
    if format == "text":
        tabulating.print_tables(table, out)
    else:
        sys.stdout.write(tabulating.render(table, format))


@app.command()
def explain(
    run: RunArg,
    row: Annotated[str, typer.Argument(metavar="ROW", help="A row of the tables, such as iter1.")],
    task: Annotated[str, typer.Argument(metavar="TASK", help="A column of the tables, such as arc_challenge.")],
    format: FormatOption = "text",
) -> None:
    """Trace a table's cell to its artifact, inputs, recipe values, commit and command."""
    found = explaining.explain(run, row, task)
    if format == "json":
        print(found.model_dump_json(indent=1))
    else:
        explaining.print_explanation(found, out)


@app.command()
def verify(run: RunOrBundleArg, format: FormatOption = "text") -> None:
    """Re-hash every output of a run, or of a bundle, against its records."""
    if run.is_file():
        damage, absent, checked = bundling.verify_bundle(run)
    else:
        runner.read_recipe(RunDir(run))
        damage, absent, checked = runner.verify(RunDir(run))
    if format == "json":
        _json({"damage": [item._asdict() for item in damage], "absent": absent, "checked": checked})
    else:
        for item in damage:
            err.print(f"{item.path}: {item.reason}", markup=False)
        out.print(f"{checked} files match their records, {len(absent)} are not here (weights, responses and samples are not committed)")
    if damage:
        raise InputError(f"{len(damage)} thing(s) in {run} are not what their records say")


@app.command()
def accept(
    recipe: RecipeArg,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="The stage's path, such as iter0/train.")],
    because: Annotated[str, typer.Option("--because", help="The reason, kept beside the work and shown in tables.")],
    out_dir: OutOption = None,
) -> None:
    """Keep finished work although the recipe's identity for it changed."""
    loaded = recipes.load(recipe)
    run = RunDir(out_dir or Path("results") / loaded.name)
    for field, old, new in runner.accept(loaded, run, stage, because):
        out.print(f"{stage}: kept {field} = {old!r} where the recipe says {new!r}", markup=False)


@app.command(hidden=True)
def stage(directory: Annotated[Path, typer.Argument(help="A stage's directory with its stage.json.")]) -> None:
    """Do the work of one stage; the runner calls this in a process of its own."""
    try:
        runner.run_stage(directory)
    except Exception as error:
        # the libraries below report a full disk in their own exception types
        if "No space left on device" in str(error) or "os error 28" in str(error):
            raise MachineError("disk full; nothing finished is lost: free space and run the same command again") from None
        raise


def _load(recipe: str, machine: str | None) -> tuple[Recipe, Machine]:
    loaded = recipes.load(recipe)
    return loaded, machines.load(machine) if machine else machines.default_for(loaded.sizes.num_parameters)


def _help(context: typer.Context, recipe: str | None) -> None:
    if recipe is not None:
        loaded = recipes.load(recipe)
        out.print(f"{loaded.name}: {loaded.summary}\n", markup=False)
        out.print(_table("iterations", listing.schedule(loaded)))
        out.print(f"harness plan {loaded.name} shows every stage and its cost", markup=False)
        return
    typer.echo(context.get_help())
    out.print(_table("recipes", [{"name": row["name"], "summary": row["summary"]} for row in listing.recipe_list()]))


def _print_plan(found: dict[str, Any]) -> None:
    shown = [
        {
            "stage": row["path"],
            "state": row["state"],
            "from": ", ".join(f"{role}={path}" for role, path in row["inputs"].items()),
            "tokens": _quantity(row["tokens"]),
            "FLOPs": _quantity(row["flops"]),
            "hours": _quantity(row["hours"]),
            "device-h": _quantity(row["device_hours"]),
            "disk GB": _quantity(row["disk_gb"]),
            "judge calls": _quantity(row["judge_calls"]),
            "paper h": _quantity(row["paper_hours"]),
        }
        for row in [*found["stages"], {"path": "total", "state": "", "inputs": {}, **found["totals"]}]
    ]
    out.print(_table(f"{found['recipe']} on {found['machine']} (estimates; paper: 8 x A100-80G)", shown))


def _quantity(value: float | None) -> str:
    if not value:
        return ""
    return f"{value:.2e}" if value >= 1e5 else f"{value:.3g}"


def _show(title: str, rows: listing.Listing, format: Format) -> None:
    if format == "json":
        _json(rows)
    else:
        out.print(_table(title, rows))


def _table(title: str, rows: listing.Listing) -> Table:
    table = Table(title=title, title_justify="left")
    for name in rows[0] if rows else ():
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else escape(str(value)) for value in row.values()))
    return table


def _json(value: Any) -> None:
    print(json.dumps(value, indent=1))


def _announce(line: str) -> None:
    err.print(line, markup=False)


def _fail(message: str) -> None:
    err.print(f"error: {message}", markup=False)
    sys.exit(runner.USER_ERROR_EXIT)
