"""The command line: parse, call one function, print. It selects; it never tunes."""

from __future__ import annotations

import errno
import sys
import traceback
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from harness import recipe as recipes
from harness.analysis.deviations import deviation_list
from harness.artifact import RunDir, read_recipe
from harness.cli import checks, listings, pairs, publish
from harness.cli import explain as explaining
from harness.cli import fetch as fetching
from harness.cli import watch as watching
from harness.cli.printing import (
    DryRunOption,
    FormatOption,
    MachineOption,
    OutOption,
    RecipeArg,
    RunArg,
    announce,
    err,
    load,
    out,
    plan_tables,
    show,
    show_json,
    table,
    without,
)
from harness.errors import USER_ERROR_EXIT, HarnessError, InputError, MachineError, StageError
from harness.report import bundle as bundling
from harness.report import tables as tabulating
from harness.runs import runner, slurm

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(pairs.app)
app.add_typer(checks.app)
app.add_typer(publish.app)

RunOrBundleArg = Annotated[Path, typer.Argument(metavar="RUN|BUNDLE", help="A run's directory, or what `harness bundle` wrote.")]

DISK_FULL = "disk full; nothing finished is lost: free space and run the same command again"
FULL_DISK_WORDS = ("No space left on device", "os error 28", "Not enough disk space")
UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
DEFECT_EXIT = 70


def main() -> None:
    """The console script: a user's mistake is one line and exit code 1; a defect keeps its traceback and exits with 70."""
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
            _fail(f"{error.filename}: {error.strerror}; expected a directory that can be written to: check the path and its permissions")
        _defect()
    except Exception:
        _defect()


@app.command(context_settings={"help_option_names": []})
def reproduce(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="A recipe's name or file.")] = None,
    out_dir: OutOption = None,
    machine: MachineOption = None,
    only: Annotated[str | None, typer.Option("--only", help="Run only the stages whose path matches this glob.")] = None,
    dry_run: DryRunOption = False,
    help_: Annotated[bool, typer.Option("--help", help="Show this message, or with RECIPE its iteration schedule.")] = False,
) -> None:
    """Generate, train and evaluate every iteration of RECIPE, then print the tables. Finished work is never redone."""
    if help_ or recipe is None:
        _help(context, recipe)
        return
    loaded, place = load(recipe, machine)
    run = RunDir(out_dir or Path("results") / loaded.name)
    if dry_run:
        out.print(plan_tables(listings.plan_list(loaded, run, place)))
        return
    ran = runner.reproduce(loaded, run, place, only, announce)
    if only is None:
        tabulating.write_tables(run.path)
    tabulating.print_tables(tabulating.read([run.path]), out)
    announce(f"{ran} stage(s) ran; everything is in {run.path}")


@app.command()
def plan(recipe: RecipeArg, out_dir: OutOption = None, machine: MachineOption = None, format: FormatOption = "text") -> None:
    """Show the stages of RECIPE: lineage, state, and estimated cost beside the paper's own times."""
    loaded, place = load(recipe, machine)
    found = listings.plan_list(loaded, RunDir(out_dir or Path("results") / loaded.name), place)
    if format == "json":
        show_json({**found, "schedule": listings.schedule(loaded), "deviations": deviation_list(loaded)})
        return
    out.print(table(f"{loaded.name}: iterations", listings.schedule(loaded)))
    out.print("", plan_tables(found))
    parts = deviation_list(loaded)
    out.print(table("where it differs from the paper's text, or fills a gap in it", without(parts, ("kind", "source", "where"))))
    out.print(f"stated in: {'; '.join(sorted({row['where'] for row in parts}))}", markup=False)


@app.command()
def fetch(recipe: RecipeArg, dry_run: DryRunOption = False, format: FormatOption = "text") -> None:
    """Put what RECIPE needs from the Hub into the caches; its stages then run without a network. Lists every file with its size."""
    wanted = fetching.repositories(recipes.load(recipe))
    rows = [file._asdict() for repository in wanted for file in fetching.files(repository)]
    show(f"{recipe}: files of {len(wanted)} repositories, {sum(row['size'] or 0 for row in rows):,} bytes", rows, format)
    for repository in () if dry_run else wanted:
        announce(f"{repository.kind} {repository.name}")
        fetching.fetch(repository)


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
        rows = listings.status_list(loaded, run)
        show(f"{loaded.name}: stages", rows, format, () if any(row["job"] for row in rows) else ("job",))


@app.command()
def cancel(recipe: RecipeArg, out_dir: OutOption = None) -> None:
    """Cancel the jobs that RECIPE has in Slurm's queue, running ones too. What they had finished is kept."""
    loaded = recipes.load(recipe)
    jobs = slurm.cancel(RunDir(out_dir or Path("results") / loaded.name))
    for path, job in jobs.items():
        out.print(f"{path}: {job} is cancelled", markup=False)
    if not jobs:
        out.print(f"{loaded.name} has no jobs in the queue", markup=False)


@app.command(name="recipes")
def recipes_(format: FormatOption = "text") -> None:
    """List the recipes."""
    show("recipes", listings.recipe_list(), format, ("model", "file"))


@app.command()
def diff(left: RecipeArg, right: RecipeArg, format: FormatOption = "text") -> None:
    """Show the fields in which two recipes part, with their reasons."""
    a, b = recipes.load(left), recipes.load(right)
    show(f"{a.name} (left) and {b.name} (right)", listings.diff_list(a, b), format)


@app.command()
def tables(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="A run's or a sweep's directory, or runs to combine (seeds).")],
    format: Annotated[Literal["text", "json", "markdown", "latex", "csv"], typer.Option("--format", help="How to print.")] = "text",
    write: Annotated[bool, typer.Option("--write", help="Renew the files in RUN/tables of every run instead.")] = False,
) -> None:
    """Rebuild the tables from the committed records alone."""
    if write:
        for path in (path for run in runs for path in tabulating.write_table(run, tabulating.read([run]))):
            out.print(str(path), markup=False)
        return
    table = tabulating.read(runs)
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
        read_recipe(run)
        damage, absent, checked = runner.verify(RunDir(run))
    if format == "json":
        show_json({"damage": [item._asdict() for item in damage], "absent": absent, "checked": checked})
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
        if any(words in str(error) for words in FULL_DISK_WORDS):
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
