"""The report's figures, drawn by matplotlib: the same figures become SVG in the page and SVG, PNG or PDF files.

Nothing random and no date goes into a file, so equal numbers give equal bytes.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from harness.analysis.claims import headline
from harness.analysis.comparability import AVERAGE
from harness.analysis.differences import delta_text
from harness.analysis.seed_table import MEAN
from harness.analysis.table_schema import Cell, Column, Delta, ResultTable, SeedComparison, SeedTable
from harness.files import write_atomic
from harness.report.evidence import Curve, Evidence, Gap, Lengths
from harness.report.formatting import heading
from harness.rows import iteration_of

INK, GRID, SFT, CONTROL, PAPER = "#1c2430", "#d9dee6", "#6b7684", "#b4540a", "#7b3fb5"
ITERATIONS = ("#5390cf", "#2f78bf", "#1a5ca8", "#0b4a8f", "#06305f")
"""Iterations grow darker; the page maps every colour to one of a dark theme. Every colour of a mark has contrast 3:1 with the page."""
MARKERS = "osD^v<>Pp"
SIZE, SMALL = (5.0, 3.1), (3.2, 2.3)
STYLE = {
    "svg.hashsalt": "harness", "svg.fonttype": "none", "pdf.fonttype": 42, "font.size": 10, "font.family": "DejaVu Sans",
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.grid": True,
    "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "figure.constrained_layout.use": True, "path.simplify": False,
}  # fmt: skip
PLACES = ("headline", "task", "categories", "training")
MAKERS = {"svg": ("Date", "Creator"), "png": ("Software",), "pdf": ("CreationDate", "Creator", "Producer")}
"""The formats, and what matplotlib would write about itself and the time."""


class Plot(NamedTuple):
    """A figure with the file name it gets, where the page shows it, its title, and what it shows in words."""

    name: str
    place: str
    title: str
    words: str
    draw: Callable[[], Figure]


def plots(table: ResultTable, evidence: Evidence) -> list[Plot]:
    """Every figure the run has the numbers for: the headline first, then tasks, MT-Bench, training, pairs."""
    found = [*_headline(table), *_tasks(table), *_categories(table), *_curves(evidence.curves)]
    gaps, lengths = evidence.gaps, evidence.lengths
    if gaps:
        words = "; ".join(f"{gap.row}: {gap.before:.2f} before, {gap.after:.2f} after" for gap in gaps)
        found.append(Plot("gap", "training", "log p(real) - log p(generated), nats a pair", words, lambda: _gap_figure(gaps)))
    if lengths:
        words = "Mean characters: " + "; ".join(f"{one.name} {one.mean:.0f}" for one in lengths)
        found.append(Plot("lengths", "training", "Lengths of real and generated responses", words, lambda: _length_figure(lengths)))
    return found


def render(plot: Plot, format: str) -> bytes:
    """The figure as the bytes of an SVG, PNG or PDF file."""
    out = io.BytesIO()
    with mpl.rc_context(STYLE):
        plot.draw().savefig(out, format=format, metadata=dict.fromkeys(MAKERS[format]), dpi=200, transparent=format == "svg")
    return out.getvalue()


def write(plot: Plot, folder: Path) -> list[Path]:
    """The figure in every format, as files in `folder`."""
    paths = [folder / f"{plot.name}.{format}" for format in MAKERS]
    for path in paths:
        write_atomic(path, render(plot, path.suffix.removeprefix(".")))
    return paths


def colour(row: str, num_iterations: int) -> str:
    """The colour of a row: iterations from light to dark, others apart."""
    if row == "sft":
        return SFT
    t = iteration_of(row)
    return CONTROL if t is None else ITERATIONS[round(t / max(num_iterations - 1, 1) * (len(ITERATIONS) - 1))]


def _headline(table: ResultTable) -> Iterator[Plot]:
    in_order = sorted(table.from_sft, key=lambda one: iteration_of(one.row) is None)  # controls last
    known = {one.row: found for one in in_order if (found := headline(one)) is not None}
    if known:
        words = "; ".join(f"{row} {delta_text(found, None)}" for row, found in known.items())
        average = any(AVERAGE in one.tasks for one in table.from_sft)
        what = "leaderboard average" if average else f"mean of {len(table.from_sft[-1].mean_over)} tasks"
        yield Plot("headline", "headline", f"Difference from SFT, {what}", words, lambda: _headline_figure(table, known))


def _headline_figure(table: ResultTable, known: Mapping[str, Delta]) -> Figure:
    """Paired differences from sft with 95 % intervals around 0, and the paper's own average differences."""
    figure = Figure(figsize=SIZE)
    axes = figure.add_subplot()
    names = ["sft", *known]
    axes.axhline(0, color=SFT, linewidth=1.5)
    for place, (row, found) in enumerate(known.items(), 1):
        _interval(axes, place, found.difference, found.low, found.high, colour(row, _num_iterations(table)))
        axes.annotate(f"{found.difference:+z.2f}", (place, found.difference), (8, 0), textcoords="offset points", va="center")
    printed = next((one.rows for one in table.published if one.table == "paper/leaderboard"), {})
    printed = printed if AVERAGE in {column.label for column in table.columns} else {}
    theirs = [(x, printed[name]["average"] - printed["sft"]["average"]) for x, name in enumerate(names) if name in printed]
    if theirs:
        axes.plot(*zip(*theirs, strict=True), color=PAPER, marker="D", fillstyle="none", linestyle="--", label="the paper, six tasks")
        _legend(figure)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.4, len(names) - 0.3)
    axes.set_ylabel("row - sft, percentage points")
    return figure


def _tasks(table: ResultTable) -> Iterator[Plot]:
    for column in table.columns:
        cells = [table.cell(row, column.label) for row in table.rows]
        known = [cell for cell in cells if cell.value is not None]
        if known:
            words = "; ".join(f"{cell.row} {cell.value:.2f}" for cell in known)
            name = f"task_{_file_name(column.label)}"
            yield Plot(name, "task", f"{heading(column)} ({column.metric})", words, _task_drawer(table, column, cells))


def _task_drawer(table: ResultTable, column: Column, cells: Sequence[Cell]) -> Callable[[], Figure]:
    def draw() -> Figure:
        figure = Figure(figsize=SMALL)
        axes = figure.add_subplot()
        for place, cell in enumerate(cells):
            if cell.value is not None:
                _interval(axes, place, cell.value, cell.low, cell.high, colour(cell.row, _num_iterations(table)))
            if cell.published is not None:
                axes.plot(place, cell.published.value, color=PAPER, marker="D", fillstyle="full" if cell.comparable else "none", zorder=2)
        axes.set_xticks(range(len(cells)), [cell.row for cell in cells], rotation=35 if len(cells) > 4 else 0)
        axes.set_xlim(-0.5, len(cells) - 0.5)
        axes.set_ylabel("lm-eval's own unit" if column.unit == "own" else column.unit)
        return figure

    return draw


def _interval(axes: Any, place: float, value: float, low: float | None, high: float | None, color: str) -> None:
    if low is not None and high is not None:
        axes.vlines(place, low, high, color=color, linewidth=2.2)
    axes.plot(place, value, "o", color=color, markersize=6, zorder=3)


def _categories(table: ResultTable) -> Iterator[Plot]:
    """MT-Bench by category, where at least three categories are scored."""
    for label in dict.fromkeys(part.column for part in table.parts):
        parts = [part for part in table.parts if part.column == label and part.kind == "category"]
        categories = list(dict.fromkeys(part.name for part in parts))
        values = {(part.row, part.name): part.value for part in parts if part.value is not None}
        whole = [row for row in table.rows if all((row, name) in values for name in categories)]
        complete = {row: [values[row, name] for name in categories] for row in whole}
        if len(categories) >= 3 and complete:
            words = "; ".join(f"{row}: " + ", ".join(f"{name} {values[row, name]:.1f}" for name in categories) for row in complete)
            draw = _dots_drawer(categories, complete, _num_iterations(table))
            yield Plot(f"categories_{_file_name(label)}", "categories", f"{label} by category, points of 10", words, draw)


def _dots_drawer(categories: Sequence[str], rows: dict[str, list[float]], num_iterations: int) -> Callable[[], Figure]:
    """A line a category, a dot a row."""

    def draw() -> Figure:
        figure = Figure(figsize=(SIZE[0], 1.0 + 0.35 * len(categories)))
        axes = figure.add_subplot()
        places = range(len(categories))
        for (row, values), marker in zip(rows.items(), itertools.cycle(MARKERS), strict=False):
            axes.plot(values, places, marker, color=colour(row, num_iterations), label=row, markersize=7, alpha=0.9)
        axes.set_yticks(places, categories)
        axes.invert_yaxis()
        _legend(figure)
        return figure

    return draw


def _legend(figure: Figure) -> None:
    """Above the axes, where it covers no curve."""
    figure.legend(loc="outside upper left", ncols=4)


def study_plots(table: SeedTable) -> list[Plot]:
    """The mean difference of every comparison of a sweep: a point a seed, and the interval over seeds."""
    means = [one for one in table.comparisons if one.column == MEAN and any(one.per_run)]
    words = "; ".join(f"{one.row} - {one.against}: {delta_text(one.over_seeds or one.pooled, None)}" for one in means)
    title = "Mean over tasks: dots are seeds, lines 95 % intervals"
    return [Plot("seeds", "headline", title, words, lambda: _seeds_figure(means))] if means else []


def _seeds_figure(means: Sequence[SeedComparison]) -> Figure:
    figure = Figure(figsize=(SIZE[0], 1.0 + 0.36 * len(means)))
    axes = figure.add_subplot()
    axes.axvline(0, color=SFT, linewidth=1.5)
    for place, one in enumerate(means):
        points = [found.difference for found in one.per_run if found is not None]
        axes.plot(points, [place + 0.18] * len(points), "o", color=ITERATIONS[1], markersize=4)
        over = one.over_seeds or one.pooled
        if over is not None:
            if over.low is not None and over.high is not None:
                axes.hlines(place - 0.12, over.low, over.high, color=ITERATIONS[4], linewidth=2.2)
            axes.plot(over.difference, place - 0.12, "D", color=ITERATIONS[4], markersize=5)
    axes.set_yticks(range(len(means)), [f"{one.row} - {one.against}" for one in means])
    axes.invert_yaxis()
    axes.set_xlabel("percentage points")
    return figure


CURVES = {
    "loss": (("loss",), "Loss, nats a pair"),
    "margin": (("margin",), "Margin, nats"),
    "rewards": (("rewards/real", "rewards/generated"), "Rewards: real (solid), generated (dotted)"),
    "accuracy": (("rewards/accuracy",), "Share of pairs with a positive margin"),
}


def _curves(curves: Sequence[Curve]) -> Iterator[Plot]:
    """The iterations' curves, one after the other."""
    for name, (quantities, title) in CURVES.items():
        found = [one for one in curves if one.quantity in quantities and iteration_of(one.row) is not None]
        if found:
            words = "; ".join(f"{one.row} {one.quantity}: {one.values[0]:.3f} to {one.values[-1]:.3f}" for one in found)
            yield Plot(f"training_{name}", "training", title, words, _curve_drawer(found, name))


def _curve_drawer(found: Sequence[Curve], name: str) -> Callable[[], Figure]:
    def draw() -> Figure:
        figure = Figure(figsize=SIZE)
        axes = figure.add_subplot()
        rows = list(dict.fromkeys(one.row for one in found))
        starts, total = {}, 0.0
        for row in rows:
            starts[row] = total
            total += max(one.steps[-1] for one in found if one.row == row) + 1
        for one in found:
            dotted = one.quantity == "rewards/generated"
            steps = [starts[one.row] + step for step in one.steps]
            style, label = (":", None) if dotted else ("-", one.row)
            axes.plot(steps, one.values, style, color=colour(one.row, len(rows)), linewidth=1.4, label=label)
        if name == "loss":
            axes.axhline(math.log(2), color=SFT, linewidth=0.8, linestyle="--")
        axes.set_xlabel("gradient steps, iterations in turn")
        _legend(figure)
        return figure

    return draw


def _gap_figure(gaps: Sequence[Gap]) -> Figure:
    figure = Figure(figsize=SIZE)
    axes = figure.add_subplot()
    places = range(len(gaps))
    axes.axhline(0, color=SFT, linewidth=1)
    axes.plot(places, [gap.before for gap in gaps], "o--", color=SFT, label="under the opponent, before")
    axes.plot(places, [gap.after for gap in gaps], "o-", color=ITERATIONS[3], label="under the policy, after")
    axes.set_xticks(places, [gap.row for gap in gaps])
    axes.set_ylabel("nats a pair")
    _legend(figure)
    return figure


def _length_figure(lengths: Sequence[Lengths]) -> Figure:
    figure = Figure(figsize=SIZE)
    axes = figure.add_subplot()
    for one in lengths:
        total = sum(one.counts)
        color = CONTROL if one.name == "real" else colour(one.name.partition(":")[0], len(lengths) - 1)
        shares = [100 * count / total for count in itertools.accumulate(one.counts)]
        axes.plot(one.edges, [0.0, *shares], color=color, label=one.name, linewidth=1.5)
    axes.set_xlabel("characters (longer ones count at the right end)")
    axes.set_ylabel("% of responses at most so long")
    _legend(figure)
    return figure


def _file_name(label: str) -> str:
    return "".join(char if char.isalnum() else "_" for char in label)


def _num_iterations(table: ResultTable) -> int:
    return sum(iteration_of(row) is not None for row in table.rows)
