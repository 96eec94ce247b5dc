"""Listings as tables that can be read at 80 columns: no box but a rule under the head, numbers short and to the right."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harness import machine as machines
from harness import recipe as recipes
from harness.analysis.deviations import Listing
from harness.cli.listings import known
from harness.contracts import check_tasks
from harness.errors import MachineError
from harness.machine import Machine, Tracker
from harness.recipe import Recipe
from harness.report.formatting import Terminal
from harness.runs.needs import hardware

COSTS = {
    "tokens": "tokens",
    "flops": "FLOPs",
    "hours": "hours",
    "device_hours": "device hours",
    "memory_gb": "device GB",
    "disk_gb": "disk GB",
    "judge_calls": "judge calls",
    "paper_hours": "paper hours",
}

MARKS = {"*": "* measured, of a finished stage", "+": "+ what `harness rehearse` measured on this machine foretells"}


def table(title: str, rows: Listing) -> Table:
    """`rows` under their own keys; the first column stays whole, the others wrap."""
    shown = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for i, name in enumerate(rows[0] if rows else ()):
        numbers = all(isinstance(row[name], (int, float, type(None))) for row in rows)
        shown.add_column(escape(name.replace("_", " ")), overflow="fold", no_wrap=i == 0, justify="right" if i and numbers else "left")
    for row in rows:
        shown.add_row(*(escape(_text(value)) for value in row.values()))
    return shown


def plan_tables(found: Mapping[str, Any]) -> Group:
    """The stages of a plan: state and lineage, then estimated costs, each line short enough for a narrow terminal."""
    stages = found["stages"]
    lineage = [{"stage": row["path"], "state": row["state"], "made from": lineage_of(row["inputs"])} for row in stages]
    sums = [*stages, {"path": "total", **found["totals"]}]
    costs = [{"stage": row["path"], **{title: quantity(row[name]) for name, title in COSTS.items()}} for row in sums]
    marks = [_mark(row["measured_hours"], row["rehearsed_hours"]) for row in stages]
    for row, cost, mark in zip(stages, costs, marks, strict=False):
        for name in ("hours", "device_hours"):
            cost[COSTS[name]] = f"{quantity(known(row, name))}{mark}"
        if row["rehearsed_memory_gb"]:
            cost[COSTS["memory_gb"]] = f"{quantity(row['rehearsed_memory_gb'])}+"
    shown = [name for name in ("stage", *COSTS.values()) if any(row[name] for row in costs)]
    return Group(
        table(f"{found['recipe']}: stages", lineage),
        "",
        right_aligned(table(f"{found['recipe']} on {found['machine']}: estimates", [{n: row[n] for n in shown} for row in costs])),
        *(Text(meaning) for mark, meaning in MARKS.items() if mark in marks),
        *(Text(line) for line in found["assumptions"]),
        *(Text(f"warning: {line}") for line in found["warnings"]),
        "",
    )


def _mark(measured: float | None, rehearsed: float | None) -> str:
    return "*" if measured else "+" if rehearsed else ""


def lineage_of(inputs: Mapping[str, str]) -> str:
    """Which checkpoint, which prompts, whose responses; the policy a training starts from is also its opponent."""
    responses = [path for role, path in inputs.items() if role.startswith("responses")]
    parts = []
    if "policy" in inputs:
        parts.append(f"{'policy and opponent' if responses else 'policy'} {inputs['policy']}")
    if "opponent" in inputs:
        parts.append(f"opponent {inputs['opponent']}")
    if "answers" in inputs:
        parts.append(f"answers of {inputs['answers']}")
    if "prompts" in inputs:
        parts.append(inputs["prompts"])
    if responses:
        parts.append(f"responses of {' and '.join(responses)}")
    return "; ".join(parts)


def right_aligned(shown: Table) -> Table:
    """`shown` with every column but the first to the right."""
    for column in shown.columns[1:]:
        column.justify, column.min_width = "right", 6
    return shown


def quantity(value: float | None) -> str:
    """At most six characters: <0.001, 0.032, 29, 26.7M, 3.4e18; nothing for none of it."""
    if not value:
        return ""
    if value < 1:
        return "<0.001" if value < 0.001 else f"{value:.2g}"
    if value >= 1e12:
        return f"{value:.1e}".replace("e+", "e")
    size, suffix = next((pair for pair in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= pair[0]), (1.0, ""))
    return f"{value / size:.0f}{suffix}" if value >= 100 * size else f"{value / size:.3g}{suffix}"


def without(rows: Listing, names: Iterable[str]) -> Listing:
    """`rows` without some of their fields."""
    dropped = set(names)
    return [{name: value for name, value in row.items() if name not in dropped} for row in rows]


def plural(count: int, noun: str) -> str:
    """'1 stage', '2 stages'."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)


out = Terminal(soft_wrap=False)
err = Terminal(stderr=True, soft_wrap=True, highlight=False)
PAPERS = "a100x8"
RUN, LOOK, COMPARE, PUBLISH, CHECK = "Run", "Look", "Compare", "Publish", "Check"
"""The panels of `harness --help`, in order."""
Format = Literal["text", "json"]
RecipeArg = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name, or a Python file that defines `recipe`.")]
RunArg = Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory, such as results/tiny.")]
IterationArg = Annotated[int, typer.Argument(metavar="ITERATION", help="An iteration's number, from 0.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="The run's directory (default: results/RECIPE).")]
MachineOption = Annotated[
    str | None, typer.Option("--machine", help="A machine's name or file, see `harness machines` (default: what is found here).")
]
TrackOption = Annotated[Tracker | None, typer.Option("--track", help="Send every training step there too (extra `trackers`).")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would run, and run nothing.")]
FormatOption = Annotated[Format, typer.Option("--format", help="text, or json in a stable layout.")]


def load(recipe: str, machine: str | None) -> tuple[Recipe, Machine]:
    """The recipe, and the machine named or what this computer is for it; refused where the two do not fit."""
    loaded = recipes.load(recipe)
    place = machines.load(machine) if machine else hardware.machine_for(loaded, hardware.look())
    machines.check(place, loaded)
    check_tasks(loaded.benchmarks)
    return loaded, place


def load_to_plan(recipe: str, machine: str | None) -> tuple[Recipe, Machine]:
    """As `load`; a recipe that cannot run here is planned for the paper's hardware, and why it cannot is said."""
    try:
        return load(recipe, machine)
    except MachineError as error:
        if machine:
            raise
        announce(f"{error}. Planned for {PAPERS}, the paper's hardware")
        return load(recipe, PAPERS)


def show(title: str, rows: Listing, format: Format, only_in_json: Sequence[str] = ()) -> None:
    """A listing as JSON or as a table; `only_in_json` names fields too long for a terminal."""
    if format == "json":
        show_json(rows)
    else:
        out.print(table(title, without(rows, only_in_json)))


def print_diff(left: str, right: str, rows: Listing) -> None:
    """Each field on a line of its own, both values below it, each with its reason where the two give other ones."""
    out.print(f"{left} (left) and {right} (right): {plural(len(rows), 'field')} differ", style="bold", markup=False)
    for row in rows:
        out.print(row["field"], markup=False, highlight=False)
        sides = Table.grid(padding=(0, 1, 0, 2))
        for side, other in (("left", "right"), ("right", "left")):
            reason = row[f"{side}_reason"]
            told = f", because {reason}" if reason and reason != row[f"{other}_reason"] else ""
            sides.add_row(side, escape(f"{'not there' if row[side] is None else _text(row[side])}{told}"))
        out.print(sides)


def show_json(value: Any) -> None:
    """`value` on stdout, indented."""
    print(json.dumps(value, indent=1))


def say(line: str) -> None:
    """A line on stdout, never broken."""
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def announce(line: str) -> None:
    """A line of progress on stderr."""
    err.print(line, markup=False)
