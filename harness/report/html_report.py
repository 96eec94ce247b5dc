"""A run as one self-contained HTML page: verdicts, tables, plots, responses, deviations, provenance, cost.

The page loads nothing and runs no script: its content security policy allows its own style sheet, by hash, and embedded pictures. Every
text in it is escaped by the template engine, after `formatting.visible` has shown what would hide in it. Equal records give equal bytes.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from harness import paper
from harness.analysis.claims import summarize
from harness.analysis.deviations import deviation_list
from harness.analysis.differences import delta_text, direction
from harness.analysis.run_table import collect
from harness.analysis.scores import RunScores, load_scores
from harness.analysis.table_schema import Cell, Column, ResultTable
from harness.artifact import RunDir
from harness.config import flatten
from harness.files import write_atomic
from harness.report import plots
from harness.report.blocks import all_blocks
from harness.report.evidence import Audit, Check, Evidence, gather
from harness.report.formatting import Block, fit, heading, questions_text, value_text
from harness.report.html_pages import render
from harness.report.released import released_blocks
from harness.runs.provenance import describe

OWN_TABLES = ("The paper's claims", "Scores", "Tasks")
"""Blocks the page shows in its own way."""
DARK = {
    plots.INK: "#e4e8ee", plots.GRID: "#323b47", plots.SFT: "#97a3b3", plots.CONTROL: "#f0954a", plots.PAPER: "#c08bf0",
    "#7fb2e5": "#35608f", "#4a90d9": "#4a86c8", "#1f6fc0": "#63a4ea", "#0b4a8f": "#8fc3f7", "#06305f": "#c2e0ff",
}  # fmt: skip
"""Each colour of the plots on a dark page."""


class ScoreCell(NamedTuple):
    """A score with what stands behind it; `mark` says how it differs from sft."""

    text: str
    mark: str
    title: str
    facts: list[tuple[str, str]]


class Picture(NamedTuple):
    """A plot as an embedded image."""

    title: str
    words: str
    uri: Markup
    place: str


def write_report(run: Path, plots_dir: Path | None = None) -> Path:
    """Write RUN/report.html, and its plots as files into `plots_dir` where given; return the page's path."""
    scores = load_scores(run)
    table = collect(run, scores)
    evidence = gather(RunDir(run), scores.recipe)
    write_atomic(run / "report.html", to_html(run, scores, table, evidence).encode())
    for plot in plots.plots(table, evidence) if plots_dir else ():
        plots.write(plot, Path(str(plots_dir)))
    return run / "report.html"


def to_html(run: Path, scores: RunScores, table: ResultTable, evidence: Evidence) -> str:
    """The page."""
    drawn = plots.plots(table, evidence)
    blocks = [fit(block, 10**6)[0] for block in all_blocks(table) if block.title not in OWN_TABLES]
    published = [block for block in blocks if block.title.startswith(("Published", "Beside"))]
    released = [fit(block, 10**6)[0] for block in released_blocks(RunDir(run), scores.recipe)]
    return render(
        "report.html",
        table=table,
        recipe=scores.recipe,
        summary=summarize(table),
        scores=_scores(table, scores),
        notes=_block(all_blocks(table), "Scores").lines,
        blocks=[block for block in blocks if block not in published],
        published=[*published, *released],
        pictures={place: [_picture(plot) for plot in drawn if plot.place == place] for place in plots.PLACES},
        samples=evidence.samples,
        judged=evidence.judged,
        deviations=deviation_list(scores.recipe),
        paper=paper if table.published else None,
        audits={stage: _audit(stage, audit) for stage, audit in evidence.audits.items()},
        launches=list(_launches(RunDir(run))),
        costs=evidence.costs,
    )  # fmt: skip


def _scores(table: ResultTable, scores: RunScores) -> list[tuple[str, str, list[ScoreCell]]]:
    """(task, its metric and questions, a cell a row) for each column."""
    lines = []
    for column in table.columns:
        shots = "" if column.shots is None else f", {column.shots}-shot"
        about = f"{column.metric}{shots}{', ' + questions_text(column) + ' questions' if column.n else ''}"
        lines.append((heading(column), about, [_score_cell(table.cell(row, column.label), column, scores) for row in table.rows]))
    return lines


def _score_cell(cell: Cell, column: Column, scores: RunScores) -> ScoreCell:
    facts = [*_facts(cell, column), *_origin(cell, scores)]
    title = "; ".join(f"{name}: {text}" for name, text in facts if name in ("Questions", "Standard error", "File"))
    return ScoreCell(value_text(cell, column), _mark(cell, column), title or cell.status, facts)


def _origin(cell: Cell, scores: RunScores) -> Iterator[tuple[str, str]]:
    """The file of a task's score and the rules it was made under; nothing for the average."""
    task = scores.by_label.get(cell.column)
    score = scores.score(cell.row, task) if task else None
    if task and score:
        yield "File", task.score_path(cell.row)
        yield from (("Protocol", f"{field} = {value}") for field, value in flatten(score.protocol).items())


def _mark(cell: Cell, column: Column) -> str:
    return direction(cell.delta, lower_is_better=column.lower_is_better) if cell.delta else ""


def _facts(cell: Cell, column: Column) -> Iterator[tuple[str, str]]:
    yield "Status", cell.status
    if cell.n is not None:
        yield "Questions", f"{cell.n}, {cell.n_unscored} unscored"
    if cell.stderr is not None:
        yield "Standard error", f"{cell.stderr:.3f}"
    if cell.delta:
        yield "Difference from sft", f"{delta_text(cell.delta, column, p=True)} after Holm ({cell.delta.method}, n {cell.delta.n})"
    if cell.published:
        yield "Published", f"{cell.published.value:.2f} ({cell.published.table}, {cell.published.where}; {cell.published.protocol})"
        yield "Comparable", "yes" if cell.comparable else f"no: {'; '.join(cell.reasons)}"
    for note in cell.notes:
        yield "Note", note


def _picture(plot: plots.Plot) -> Picture:
    svg = plots.render(plot, "svg").decode()
    for light in DARK:
        svg = svg.replace(light, f"var(--c{light[1:]})")
    light_vars = "".join(f"--c{light[1:]}:{light};" for light in DARK)
    dark_vars = "".join(f"--c{light[1:]}:{dark};" for light, dark in DARK.items())
    theme = f"<style>:root{{{light_vars}}}@media (prefers-color-scheme:dark){{:root{{{dark_vars}}}}}</style>"
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", svg)
    svg = re.sub(r"(<svg [^>]*>)", lambda found: found.group(1) + theme, svg, count=1)
    uri = Markup("data:image/svg+xml;base64,") + base64.b64encode(svg.encode()).decode()
    return Picture(plot.title, plot.words, uri, plot.place)


def _block(blocks: Sequence[Block], title: str) -> Block:
    return next(block for block in blocks if block.title == title)


def _audit(stage: str, audit: Audit) -> dict[str, Any]:
    """An audit as a block of checks, its counts as lines, and its example."""
    header = ("check", "verdict", "found", "at most")
    checks = tuple((one.name, _verdict(one), f"{one.found:.1%}", f"{one.limit:.1%}") for one in audit.checks)
    counts = [(field, str(value)) for field, value in audit.counts.items()]
    return {"block": Block(f"Checks of {stage}", header, checks), "counts": counts, "example": audit.example}


def _verdict(check: Check) -> str:
    if check.found <= check.limit:
        return "holds"
    return "fails, accepted by the recipe" if check.accepted else "fails"


def _launches(run: RunDir) -> Iterator[dict[str, str]]:
    """A line for each launch of each stage."""
    for path in run.stages():
        launch = run.launch(path)
        for origin in launch.launches if launch else ():
            yield {"stage": path, "identity": launch.stage.fingerprint[:12] if launch else "", **describe(origin)._asdict()}
