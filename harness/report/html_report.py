"""A run or a sweep as one self-contained HTML page: size of the effect, verdicts, tables, plots, changed questions, provenance.

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
from harness.analysis.claims import Summary, overall, summarize
from harness.analysis.deviations import deviation_list
from harness.analysis.differences import REFERENCE, delta_text, direction
from harness.analysis.run_table import collect, unfinished_notes
from harness.analysis.scores import RunScores, load_scores
from harness.analysis.sweep_table import compare_variants
from harness.analysis.table_schema import Cell, Column, ResultTable, SeedTable
from harness.artifact import RunDir
from harness.config import flatten
from harness.files import write_atomic
from harness.recipe import Recipe
from harness.report import plots
from harness.report.blocks import all_blocks, released_blocks
from harness.report.effects import WORDS, main_effect, size_text, study_sentence
from harness.report.evidence import Audit, Check, Evidence, gather
from harness.report.formatting import Block, heading, questions_text, stacked, value_text, words_of
from harness.report.head_to_head import Changed, Side, compare, parse_side, side_of
from harness.report.html_pages import render
from harness.rows import iteration_of
from harness.runs.provenance import describe
from harness.runs.sweeps import is_sweep, read_sweep

OWN_TABLES = ("Size of the effect", "The paper's claims", "Scores", "Tasks")
"""Blocks the page shows in its own way."""
SHOWN, LISTED, ID_DIGITS = 5, 40, 12
"""Changed questions of a task shown with both answers, and listed by the beginning of their ids, in each direction."""
DARK = {
    plots.INK: "#e4e8ee", plots.GRID: "#323b47", plots.SFT: "#97a3b3", plots.CONTROL: "#f0954a", plots.PAPER: "#c08bf0",
    "#5390cf": "#4578b0", "#2f78bf": "#5f98d6", "#1a5ca8": "#7fb2ea", "#0b4a8f": "#a6cdf7", "#06305f": "#cfe5ff",
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


class Changes(NamedTuple):
    """A task's questions that changed sides: some as (side, question with both answers), and (side, ids, how many more)."""

    task: str
    gained: int
    lost: int
    shown: list[tuple[str, Changed]]
    listed: list[tuple[str, list[str], int]]


def write_report(folder: Path, plots_dir: Path | None = None) -> Path:
    """Write FOLDER/report.html of a run or a sweep, and its plots as files into `plots_dir` where given; return the page's path."""
    if is_sweep(folder):
        table = compare_variants(folder)
        page, drawn = study_html(folder, table), plots.study_plots(table)
    else:
        scores = load_scores(folder)
        own, evidence = collect(folder, scores), gather(RunDir(folder), scores.recipe)
        page, drawn = to_html(folder, scores, own, evidence), plots.plots(own, evidence)
    write_atomic(folder / "report.html", page.encode())
    for plot in drawn if plots_dir else ():
        plots.write(plot, Path(str(plots_dir)))
    return folder / "report.html"


def to_html(run: Path, scores: RunScores, table: ResultTable, evidence: Evidence) -> str:
    """The page of a run."""
    drawn, whole = plots.plots(table, evidence), all_blocks(table)
    blocks = [stacked(block) for block in whole if block.title not in OWN_TABLES]
    published = [block for block in blocks if block.title.startswith(("Published", "Beside"))]
    released = [stacked(block) for block in released_blocks(RunDir(run), scores.recipe)]
    last = [row for row in table.rows if iteration_of(row) is not None][-1:]
    return render(
        "report.html",
        table=table,
        recipe=scores.recipe,
        summary=summarize(table),
        size=_size_lines(table, [*summarize(table).numbers[1:], *unfinished_notes(RunDir(run))]),
        words=WORDS,
        sizes=_sizes(whole, table),
        scores=_scores(table, scores),
        notes=_block(whole, "Scores").lines,
        blocks=[block for block in blocks if block not in published],
        published=[*published, *released],
        pictures={place: [_picture(plot) for plot in drawn if plot.place == place] for place in plots.PLACES},
        changes=list(_changes(side_of(run, scores, REFERENCE), side_of(run, scores, last[0]))) if last else [],
        against=REFERENCE,
        row=last[0] if last else "",
        samples=evidence.samples,
        judged=evidence.judged,
        deviations=list(_deviations(scores.recipe)),
        paper=paper if table.published else None,
        audits={stage: _audit(stage, audit) for stage, audit in evidence.audits.items()},
        launches=list(_launches(RunDir(run))),
        costs=evidence.costs,
    )  # fmt: skip


def study_html(folder: Path, table: SeedTable) -> str:
    """The page of a sweep."""
    whole = all_blocks(table)
    last = _block(whole, "Last iteration")
    groups: dict[str, list[tuple[str, ...]]] = {}
    for name, *cells in last.rows:
        groups.setdefault(name, []).append(tuple(cells))
    verdict = overall(table.findings)
    sentence, _, variants = study_sentence(table).partition("; against ")
    main = main_effect(table)
    sides = [parse_side(f"{folder}:{row}") for row in (main.against, main.row)] if main else []
    return render(
        "study.html",
        table=table,
        summary=Summary(sentence, verdict, []),
        size=_size_lines(table, [f"Against {variants}."] if variants else []),
        words=WORDS,
        sizes=_sizes(whole, table),
        means=stacked(_block(whole, "Mean over seeds")),
        differences=[(name, stacked(Block(name, ("", *last.header[2:]), tuple(rows)))) for name, rows in groups.items()],
        lines=last.lines,
        changes=list(_changes(*sides)) if sides else [],
        against=main.against if main else "",
        row=main.row if main else "",
        pictures=[_picture(plot) for plot in plots.study_plots(table)],
        runs=[(variant, ", ".join(names)) for variant, names in read_sweep(folder).runs.items()],
    )


def _sizes(whole: Sequence[Block], table: ResultTable | SeedTable) -> Block:
    """The first table, without the sentence that the banner says."""
    block = stacked(_block(whole, "Size of the effect"))
    return block._replace(lines=block.lines[1:]) if main_effect(table) else block


def _size_lines(table: ResultTable | SeedTable, others: Sequence[str]) -> list[str]:
    main = main_effect(table)
    return [*([size_text(main)] if main else []), *others]


def _changes(left: Side, right: Side) -> Iterator[Changes]:
    """The questions that changed sides, task by task; gained is what is better on the right."""
    columns = {column.label: column for column in left.scores.columns}
    for one in compare(left, right, SHOWN).tasks:
        sides = [one.gained_questions, one.lost_questions]
        better, worse = reversed(sides) if columns[one.task].lower_is_better else sides
        listed = [(side, [name[:ID_DIGITS] for name in ids[:LISTED]], max(0, len(ids) - LISTED))
                  for side, ids in (("gained", better), ("lost", worse)) if ids]  # fmt: skip
        shown = [("gained" if change.question in better else "lost", change) for change in one.changed if change.prompt is not None]
        if listed:
            yield Changes(one.task, len(better), len(worse), shown, listed)


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
        yield "Difference from sft", f"{delta_text(cell.delta, column, p=True)} ({cell.delta.method}, n {cell.delta.n})"
    if cell.published:
        yield "Published", f"{cell.published.value:.2f} ({cell.published.table}, {cell.published.where}; {cell.published.protocol})"
        evaluation = [reason for reason in cell.reasons if reason not in cell.training_reasons]
        yield "Same evaluation", "; ".join(["no", *evaluation]) if evaluation else "yes"
        yield "Same training", "; ".join(["no", *cell.training_reasons]) if cell.training_reasons else "yes"
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


def _deviations(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """(settings with the paper's and this run's values, kind, reason), a line for all that share a reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for one in deviation_list(recipe):
        text = f"{one['field']}: {words_of(one['stated'])}, here {words_of(one['used'])}"
        groups.setdefault((one["kind"], one["reason"] or "no reason given"), []).append(text)
    for (kind, reason), settings in groups.items():
        yield "\n".join(settings), kind, reason


def _launches(run: RunDir) -> Iterator[tuple[str, str, str, str]]:
    """(stages with their identities, commit and command, versions, machine), a line for all stages of one launch."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for path in run.stages():
        launch = run.launch(path)
        for origin in launch.launches if launch else ():
            text = describe(origin)
            key = (f"{text.commit}\n{text.command}", text.packages, text.hardware)
            groups.setdefault(key, []).append(f"{path} {launch.stage.fingerprint[:12] if launch else ''}")
    for (made_by, packages, hardware), stages in groups.items():
        yield "\n".join(stages), made_by, packages, hardware
