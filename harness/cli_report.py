"""The commands that show a finished run to others. What they need is imported when they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

RunArg = Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory, such as results/tiny.")]


@app.command()
def report(
    run: RunArg,
    plots_dir: Annotated[Path | None, typer.Option("--plots", metavar="DIR", help="Write the plots as SVG, PNG and PDF too.")] = None,
) -> None:
    """Write RUN/report.html: one page, self-contained, with verdicts, tables, plots, responses, deviations and provenance."""
    from harness.errors import requires

    with requires("report", "matplotlib", "jinja2"):
        from harness import report as reporting

    typer.echo(str(reporting.write_report(run, plots_dir)))
