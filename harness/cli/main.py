"""The command line: parse, call one function, print. It selects; it never tunes."""

from __future__ import annotations

import errno
import fnmatch
import io
import sys
import traceback
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from harness import recipe as recipes
from harness.analysis.deviations import deviation_list
from harness.artifact import RunDir
from harness.cli import checks, listings, pairs, publish, rehearse
from harness.cli import fetch as fetching
from harness.cli.doctor import ready_machine
from harness.cli.explain import explain as explain_cell
from harness.cli.explain import explain_sweep, print_explanation
from harness.cli.printing import (
    CHECK,
    COMPARE,
    LOOK,
    RUN,
    DryRunOption,
    FormatOption,
    MachineOption,
    OutOption,
    RecipeArg,
    RunArg,
    TrackOption,
    announce,
    err,
    load_to_plan,
    out,
    plan_tables,
    plural,
    print_diff,
    say,
    show,
    show_json,
    table,
    without,
)
from harness.cli.watch import watch as watch_stages
from harness.errors import USER_ERROR_EXIT, HarnessError, MachineError, StageError
from harness.files import is_disk_full
from harness.machine import with_tracker
from harness.report.formatting import visible
from harness.report.tables import print_tables, read_table, render, write_all_tables, write_tables
from harness.runs import provenance, runner
from harness.runs.slurm.queue import cancel as cancel_jobs
from harness.runs.sweeps import is_sweep

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(pairs.app)
app.add_typer(checks.app)
app.add_typer(publish.app)
app.add_typer(rehearse.app)

DISK_FULL = "disk full; nothing finished is lost: free space and run the same command again"
UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
DEFECT_EXIT = 70


def main() -> None:
    """The console script: a user's mistake is one line and exit code 1; a defect keeps its traceback and exits with 70."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal's encoding lacks is spelt out
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except StageError as error:  # the stage's own process has said why
        announce(str(error))
        sys.exit(USER_ERROR_EXIT)
    except HarnessError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _fail(DISK_FULL)
        if error.errno in UNUSABLE:
            expected = "a file there: move the directory away" if error.errno == errno.EISDIR else "a directory that can be written to"
            _fail(f"{error.filename}: {error.strerror}; expected {expected}; check the path and its permissions")
        _defect()
    except Exception:
        _defect()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"harness {provenance.versions().get('harness-spin', 'that is not installed, it runs from a folder')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    """Reproduce Self-Play Fine-Tuning (SPIN): generate, train, evaluate, and set the tables beside the paper's."""


@app.command(context_settings={"help_option_names": []}, rich_help_panel=RUN)
def reproduce(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="A recipe's name or file.")] = None,
    out_dir: OutOption = None,
    machine: MachineOption = None,
    only: Annotated[
        str | None, typer.Option("--only", help="Run only the stages whose path matches this glob; tables that are there are renewed.")
    ] = None,
    track: TrackOption = None,
    dry_run: DryRunOption = False,
    help_: Annotated[bool, typer.Option("--help", help="Show this message, or with RECIPE its iteration schedule.")] = False,
) -> None:
    """Generate, train and evaluate every iteration of RECIPE, then print the tables. Finished work is never redone."""
    if help_ or recipe is None:
        _help(context, recipe)
        return
    loaded = recipes.load(recipe)
    run = RunDir(out_dir or Path("results") / loaded.name)
    if dry_run:
        out.print(plan_tables(listings.plan_list(loaded, run, load_to_plan(recipe, machine)[1], only)))
        return
    place = with_tracker(ready_machine(loaded, machine, run.path, only), track)
    ran = runner.reproduce(loaded, run, place, only, announce)
    if only is None or (run.path / "tables").is_dir():
        write_tables(run.path)
    if only is None:
        print_tables(read_table([run.path]), out)
    else:
        states = listings.status_list(loaded, run)
        out.print(table(f"{loaded.name}: stages matching {only}", [row for row in states if fnmatch.fnmatch(row["path"], only)]))
    announce(f"{plural(ran, 'stage')} ran; everything is in {run.path}")


@app.command(rich_help_panel=LOOK)
def plan(recipe: RecipeArg, out_dir: OutOption = None, machine: MachineOption = None, format: FormatOption = "text") -> None:
    """Show the stages of RECIPE: lineage, state, and estimated cost beside the paper's own times."""
    loaded, place = load_to_plan(recipe, machine)
    found = listings.plan_list(loaded, RunDir(out_dir or Path("results") / loaded.name), place)
    if format == "json":
        show_json({**found, "schedule": listings.schedule(loaded), "deviations": deviation_list(loaded)})
        return
    out.print(table(f"{loaded.name}: iterations", listings.schedule(loaded)))
    out.print("", plan_tables(found))
    deviations = deviation_list(loaded)
    out.print(table("where it differs from the paper, or fills a gap in it", without(deviations, ("kind", "source", "where"))))
    out.print(f"stated in: {'; '.join(sorted({row['where'] for row in deviations}))}", markup=False)


@app.command(rich_help_panel=RUN)
def fetch(recipe: RecipeArg, dry_run: DryRunOption = False, format: FormatOption = "text") -> None:
    """Put what RECIPE needs from the Hub into the caches; its stages then run without a network. Lists every file with its size."""
    wanted = fetching.repositories(recipes.load(recipe))
    fetching.refuse_unreachable(wanted)
    rows = [file._asdict() for repository in wanted for file in fetching.files(repository)]
    show(f"{recipe}: files of {len(wanted)} repositories, {sum(row['size'] or 0 for row in rows):,} bytes", rows, format)
    for repository in () if dry_run else wanted:
        announce(f"{repository.kind} {repository.name}")
        fetching.fetch(repository)


@app.command(rich_help_panel=LOOK)
def status(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE|SWEEP", help="A name, a Python file or a directory of a recipe or sweep.")],
    out_dir: OutOption = None,
    format: FormatOption = "text",
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing it, with each stage's progress, until all is done.")] = False,
) -> None:
    """Show what is done, running, partial, missing or stale; of a sweep, how many stages of each run are."""
    planned = listings.planned_runs(recipe, out_dir)
    loaded, run = planned[0]
    if watch:
        watch_stages(planned, out)
    elif len(planned) == 1:
        rows = listings.status_list(loaded, run)
        show(f"{loaded.name}: stages", rows, format, () if any(row["job"] for row in rows) else ("job",))
    else:
        show("runs", listings.run_status_list(planned), format)


@app.command(rich_help_panel=RUN)
def cancel(recipe: RecipeArg, out_dir: OutOption = None) -> None:
    """Cancel the jobs that RECIPE has in Slurm's queue, running ones too. What they had finished is kept."""
    loaded = recipes.load(recipe)
    jobs = cancel_jobs(RunDir(out_dir or Path("results") / loaded.name))
    for path, job in jobs.items():
        out.print(f"{path}: {job} is cancelled", markup=False)
    if not jobs:
        out.print(f"{loaded.name} has no jobs in the queue", markup=False)


@app.command(name="recipes", rich_help_panel=LOOK)
def recipes_(format: FormatOption = "text") -> None:
    """List the recipes."""
    show("recipes", listings.recipe_list(), format, ("model", "file"))


@app.command(rich_help_panel=COMPARE)
def diff(left: RecipeArg, right: RecipeArg, format: FormatOption = "text") -> None:
    """Show the fields in which two recipes differ, with their reasons."""
    a, b = recipes.load(left), recipes.load(right)
    found = listings.diff_list(a, b)
    if format == "json":
        show_json(found)
    else:
        print_diff(a.name, b.name, found)


@app.command(rich_help_panel=LOOK)
def tables(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="A run's or a sweep's directory, or runs to combine (seeds).")],
    format: Annotated[
        Literal["text", "json", "markdown", "latex", "paper", "csv"], typer.Option("--format", help="How to print; paper: one LaTeX table.")
    ] = "text",
    write: Annotated[bool, typer.Option("--write", help="Renew the files in RUN/tables, of every format, instead.")] = False,
) -> None:
    """Rebuild the tables from the committed records alone."""
    if write:
        for path in (path for run in runs for path in write_all_tables(run)):
            say(str(path))
        return
    table = read_table(runs)
    if format == "text":
        print_tables(table, out)
    else:
        sys.stdout.write(visible(render(table, format)))


@app.command(rich_help_panel=LOOK)
def explain(
    run: RunArg,
    row: Annotated[str, typer.Argument(metavar="ROW", help="A row of the tables, such as iter1.")],
    task: Annotated[str, typer.Argument(metavar="TASK", help="A column of the tables, such as arc_challenge.")],
    full: Annotated[bool, typer.Option("--full", help="Show every stage with its identity, values, inputs and launches.")] = False,
    format: FormatOption = "text",
) -> None:
    """Trace a table's cell to its artifact, inputs, recipe values, commit and command; of a sweep, to the cell of each seed."""
    found = explain_sweep(run, row, task) if is_sweep(run) else explain_cell(run, row, task)
    if format == "json":
        show_json(found.model_dump(mode="json"))
    else:
        print_explanation(found, out, full=full)


@app.command(rich_help_panel=CHECK)
def accept(
    recipe: RecipeArg,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="The stage's path, such as iter0/train.")],
    because: Annotated[str, typer.Option("--because", help="The reason, kept beside the work and shown in tables.")],
    out_dir: OutOption = None,
) -> None:
    """Keep finished work, and what was made from it, although the recipe's identity for it changed."""
    loaded = recipes.load(recipe)
    run = RunDir(out_dir or Path("results") / loaded.name)
    for field, old, new in runner.accept(loaded, run, stage, because):
        out.print(f"{stage}: kept {field} = {old!r} where the recipe says {new!r}", markup=False)


@app.command(hidden=True)
def stage(directory: Annotated[Path, typer.Argument(help="A stage's directory with its stage.json.")]) -> None:
    """Do the work of one stage; the runner calls this in a process of its own."""
    try:
        runner.run_stage(directory)
    except BaseException as error:  # the libraries below report a full disk in their own exception types
        if is_disk_full(error):
            raise MachineError(DISK_FULL) from None
        raise


def _help(context: typer.Context, recipe: str | None) -> None:
    if recipe is not None:
        loaded = recipes.load(recipe)
        out.print(f"{loaded.name}: {loaded.summary}\n", markup=False)
        out.print(table("iterations", listings.schedule(loaded)))
        out.print(f"harness plan {loaded.name} shows every stage and its cost", markup=False)
        return
    typer.echo(context.get_help())
    out.print(table("recipes", [{"name": row["name"], "summary": row["summary"]} for row in listings.recipe_list()]))


def _fail(message: str) -> NoReturn:
    err.print(f"error: {message}", markup=False)
    sys.exit(USER_ERROR_EXIT)


def _defect() -> NoReturn:
    traceback.print_exc()
    sys.exit(DEFECT_EXIT)
