"""The commands that show a finished run to others. What they need is imported when they are called."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.printing import COMPARE, LOOK, PUBLISH, FormatOption, RunArg, out, say, show_json

app = typer.Typer()

RowArg = Annotated[str, typer.Argument(metavar="ITERATION", help="A row of the tables, such as iter1.")]
SideArg = Annotated[str, typer.Argument(metavar="RUN[:ROW]", help="A run and a row of its tables (default: the last one).")]


@app.command(rich_help_panel=LOOK)
def report(
    run: RunArg,
    plots_dir: Annotated[Path | None, typer.Option("--plots", metavar="DIR", help="Write the plots as SVG, PNG and PDF too.")] = None,
) -> None:
    """Write RUN/report.html: one page, self-contained, with verdicts, tables, plots, responses, deviations and provenance."""
    from harness.errors import requires

    with requires("report", "matplotlib", "jinja2"):
        from harness.report.html_report import write_report

    say(str(write_report(run, plots_dir)))


@app.command(rich_help_panel=COMPARE)
def compare(
    left: SideArg,
    right: SideArg,
    samples: Annotated[int, typer.Option("--samples", min=0, help="Changed questions shown a task, in each direction.")] = 2,
    format: FormatOption = "text",
) -> None:
    """Show what the second row adds to the first, question by question: paired statistics, what changed sides, both answers."""
    from harness.report import head_to_head

    found = head_to_head.compare(head_to_head.parse_side(left), head_to_head.parse_side(right), samples)
    if format == "json":
        show_json(found.model_dump(mode="json"))
    else:
        head_to_head.print_comparison(found, out)


@app.command(rich_help_panel=PUBLISH)
def pack(
    run: RunArg,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Pack the finished stages and list the others in the archive.")] = False,
) -> None:
    """Write RUN/records.tar.xz, of a sweep one for each run: the records and scores, which are what is committed of a run's stages."""
    from harness.report import bundle as bundling

    for path in bundling.pack(run, partly=unfinished):
        say(str(path))


@app.command(rich_help_panel=PUBLISH)
def bundle(
    run: RunArg,
    out_file: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The archive (default: RECIPE.tar.gz beside RUN).")] = None,
) -> None:
    """Pack records, scores, samples, tables, report and environment into one archive that `harness verify` checks offline."""
    from harness.report.bundle import write_bundle

    say(str(write_bundle(run, out_file)))


@app.command(name="export-results", rich_help_panel=PUBLISH)
def export_results(
    run: RunArg,
    row: RowArg,
    out_dir: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where lm-eval's folder RECIPE-ROW is written.")],
) -> None:
    """Write a row's scores and samples as lm-eval's results_*.json and samples_*.jsonl."""
    from harness.report.formats.lm_eval_files import write_results

    for path in write_results(run, row, out_dir, datetime.now()):
        say(str(path))


@app.command(rich_help_panel=PUBLISH)
def card(
    run: RunArg,
    iteration: RowArg,
    out_file: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The card (default: RUN/cards/ITERATION.md).")] = None,
) -> None:
    """Write a Hub model card: results with their rules, base model, data, recipe, deviations."""
    from harness.report.formats.hub import write_card

    say(str(write_card(run, iteration, out_file)))


@app.command(rich_help_panel=PUBLISH)
def push(
    run: RunArg,
    iteration: RowArg,
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the Hub.")],
    yes: Annotated[bool, typer.Option("--yes", help="Really upload; without it the files are only listed.")] = False,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public (default: private).")] = False,
) -> None:
    """List what an upload of this iteration would send to the Hub; with --yes, send it."""
    from huggingface_hub import HfApi

    from harness.report.formats.hub import prepare, upload

    prepared = prepare(run, iteration, repo)
    for name in sorted(prepared.files):
        say(name)
    if not yes:
        say(f"nothing was sent; add --yes to upload these {len(prepared.files)} files to {repo}")
        return
    upload(prepared, HfApi(), private=not public)
    say(f"uploaded to {repo}")


@app.command(rich_help_panel=LOOK)
def index(folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of runs, such as results.")]) -> None:
    """Write FOLDER/README.md and FOLDER/index.html: every run with what it says about the paper's claims."""
    from harness.errors import requires

    with requires("report", "jinja2"):
        from harness.report.html_pages import write_index

    for path in write_index(folder):
        say(str(path))
