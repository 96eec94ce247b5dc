"""The commands that look at what somebody else made: published checkpoints, judgments, runs and bundles, this machine."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from harness import recipe as recipes
from harness.analysis.anchors import anchor_notes, compare_figures, conclusions_of, figure_rows, require_anchors
from harness.analysis.forensics import judge_agreement, published_answers, response_sets, result_files, training_state
from harness.artifact import RunDir, read_recipe
from harness.cli import listings
from harness.cli.doctor import examine, listing, ready_machine
from harness.cli.preflight import Context, context_for
from harness.cli.printing import (
    CHECK,
    COMPARE,
    LOOK,
    RUN,
    DryRunOption,
    FormatOption,
    IterationArg,
    MachineOption,
    OutOption,
    RecipeArg,
    RunArg,
    announce,
    err,
    load_to_plan,
    out,
    plan_tables,
    plural,
    say,
    show,
    show_json,
    table,
)
from harness.errors import InputError, MachineError
from harness.evaluation.mt_bench import ratings
from harness.report.bundle import verify_bundle, verify_run
from harness.report.tables import write_tables
from harness.runs import runner
from harness.runs.needs import hardware
from harness.runs.sweeps import is_sweep

app = typer.Typer()

RunOrBundleArg = Annotated[
    Path, typer.Argument(metavar="RUN|BUNDLE", help="A run's or a sweep's directory, or what `harness bundle` wrote.")
]


RESULTS = "lm-eval's results_*.json, with its samples_*.jsonl beside it, a leaderboard's details_*.parquet, or folders of them."


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
    require_anchors(loaded)
    run = RunDir(out_dir or Path("results") / loaded.name)
    planned = listings.plan_list(loaded, run, load_to_plan(recipe, machine)[1]) if dry_run else None
    if planned is None:
        runner.reproduce(loaded, run, ready_machine(loaded, machine, run.path), None, announce)
        write_tables(run.path)
    figures = compare_figures(loaded, run.path)
    notes, conclusions = anchor_notes(loaded), conclusions_of(figures)
    if format == "json":
        show_json({"plan": planned, "notes": notes, "comparisons": [figure._asdict() for figure in figures], "conclusions": conclusions})
        return
    if planned:
        out.print(plan_tables(planned))
    out.print(table(f"{loaded.name}: the same weights, evaluated here and there", figure_rows(figures)))
    for line in (*notes, *conclusions):
        out.print(line, markup=False)


@app.command(name="compare-training", rich_help_panel=COMPARE)
def compare_training(
    run: RunArg,
    row: Annotated[str, typer.Argument(metavar="ROW", help="A trained row of the run, such as iter0.")],
    state: Annotated[Path, typer.Argument(metavar="STATE", help="The trainer_state.json of a released checkpoint.")],
    format: FormatOption = "text",
) -> None:
    """Set a released checkpoint's training log over ours: the first step where they part beyond noise, and what differs after it."""
    found = training_state.compare(RunDir(run), row, state)
    if format == "json":
        show_json({"curves": [curve._asdict() for curve in found.curves], "conclusions": found.conclusions})
        return
    show(f"{run.name} {row} and {state.name}", [curve._asdict() for curve in found.curves], format)
    for line in found.conclusions:
        out.print(line, markup=False)


@app.command(name="compare-responses", rich_help_panel=COMPARE)
def compare_responses(
    iteration: IterationArg,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A file, a directory, or OWNER/NAME@REVISION on the Hub.")],
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs whose responses of that iteration are compared.")],
    split: Annotated[str, typer.Option("--split", help="Which split; train+test joins two.")] = "train",
    format: FormatOption = "text",
) -> None:
    """Hold our responses against a released set: identical ones, common beginnings, lengths; the run that decodes most alike first."""
    found = response_sets.compare([RunDir(run) for run in runs], iteration, source, split)
    show(f"iter{iteration}: responses of {source}", [one._asdict() for one in found], format)


@app.command(name="import-judgments", rich_help_panel=CHECK)
def import_judgments(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="FastChat's *_single.jsonl, plain or .gz.")],
    format: FormatOption = "text",
) -> None:
    """Re-read MT-Bench verdicts made elsewhere: means by model, turn and category, and how many cannot be read."""
    summary = ratings.summarize(ratings.read_judgments(files))
    if format == "json":
        show_json(summary)
    else:
        show("judgments, points of 10", ratings.rows(summary), format)


@app.command(name="judge-again", rich_help_panel=RUN)
def judge_again(
    recipe: RecipeArg,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="FastChat's *_single.jsonl, plain or .gz.")],
    out_file: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the new judgments are written, in FastChat's layout.")],
    protocol: Annotated[str | None, typer.Option("--protocol", help="Of the recipe's mt_bench whose judge is asked.")] = None,
    machine: MachineOption = None,
) -> None:
    """Ask RECIPE's judge what the judges of these judgments were asked: other verdicts on the same answers, none of them made again."""
    from harness.evaluation.mt_bench.regrading import regrade  # it imports openai

    loaded, place = load_to_plan(recipe, machine)
    judges = {one.protocol: one.judge for one in loaded.benchmarks if one.judge and protocol in (None, one.protocol)}
    if len(judges) != 1:
        raise InputError(f"{loaded.name} has {len(judges)} judges under such a protocol ({', '.join(judges)}); choose one by --protocol")
    announce(f"{out_file}: {plural(len(regrade(files, next(iter(judges.values())), place, out_file)), 'judgment')}, 0 answers generated")


@app.command(rich_help_panel=COMPARE)
def agreement(
    left: Annotated[str, typer.Argument(metavar="LEFT", help="RUN:ROW:COLUMN, or FILE:MODEL[:JUDGE] of FastChat's judgments.")],
    right: Annotated[str, typer.Argument(metavar="RIGHT", help="The same of another judge.")],
    format: FormatOption = "text",
) -> None:
    """Show how far two judges agree on the same MT-Bench answers, over all turns and in each category."""
    found, others = judge_agreement.compare(judge_agreement.read_side(left), judge_agreement.read_side(right))
    rows = [one._asdict() for one in found] if format == "json" else judge_agreement.shown(found)
    show(f"{left} and {right}, points of 10", rows, format)
    if others and format == "text":
        out.print(f"{plural(others, 'turn')} in both, not known to be on the same answers, left out", markup=False)


@app.command(name="import-results", rich_help_panel=CHECK)
def import_results(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help=RESULTS)],
    format: FormatOption = "text",
) -> None:
    """Show results that others made: every task's metrics, shots, questions, and how many of these have values of their own."""
    found = result_files.read_results(sources)
    show("results, shares in percent", result_files.rows(found) if format == "json" else result_files.shown(found), format)


@app.command(name="compare-results", rich_help_panel=COMPARE)
def compare_results(
    run: RunArg,
    row: Annotated[str, typer.Argument(metavar="ROW", help="A row of the run, such as iter0.")],
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help=RESULTS)],
    format: FormatOption = "text",
) -> None:
    """Hold a row against results that others made, paired question by question: ours less theirs, and how many prompts are the same."""
    found = published_answers.compare(run, row, result_files.read_results(sources))
    rows = [one._asdict() for one in found] if format == "json" else published_answers.shown(found)
    show(f"{run.name} {row} and theirs, question by question", rows, format)


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
    findings = examine(context)
    show("doctor", listing(findings), format)
    errors = [finding.check for finding in findings if finding.state == "error"]
    if errors:
        raise MachineError(f"{plural(len(errors), 'problem')} to fix: {', '.join(errors)}")


@app.command(rich_help_panel=CHECK)
def verify(run: RunOrBundleArg, format: FormatOption = "text") -> None:
    """Compute again what can be: hashes, identities and tables of a run, a sweep or a bundle, against its records."""
    if run.is_file():
        found = verify_bundle(run)
    else:
        if not is_sweep(run):
            read_recipe(run)
        found = verify_run(run)
    damage, absent, checked, left = found
    if format == "json":
        show_json({**found._asdict(), "damage": [item._asdict() for item in damage]})
    else:
        for item in damage:
            err.print(f"{item.path}: {item.reason}", markup=False)
        out.print(f"{checked} files match their records, {len(absent)} are not here (weights, responses and samples are not committed)")
        if left:
            say(f"{plural(len(left), 'stage')} {'was' if len(left) == 1 else 'were'} not finished when this was packed: {', '.join(left)}")
    if damage:
        raise InputError(f"{plural(len(damage), 'file')} in {run} {'is' if len(damage) == 1 else 'are'} not what the records say")
