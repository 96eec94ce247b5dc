"""What every command shares: its arguments and options, and how it prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from harness import machine as machines
from harness import recipe as recipes
from harness.cli.listings import Listing
from harness.cli.printing import table, without
from harness.machine import Machine
from harness.recipe import Recipe

out = Console(soft_wrap=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)

Format = Literal["text", "json"]
RecipeArg = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name, or a Python file that defines `recipe`.")]
RunArg = Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory, such as results/tiny.")]
IterationArg = Annotated[int, typer.Argument(metavar="ITERATION", help="An iteration's number, from 0.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="The run's directory (default: results/RECIPE).")]
MachineOption = Annotated[
    str | None, typer.Option("--machine", help="A machine's name or file (default: the smallest shipped one that holds the model).")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would run, and run nothing.")]
FormatOption = Annotated[Format, typer.Option("--format", help="text, or json in a stable layout.")]


def load(recipe: str, machine: str | None) -> tuple[Recipe, Machine]:
    """The recipe, and the machine named or the smallest that holds it; refused where the two do not fit."""
    loaded = recipes.load(recipe)
    place = machines.load(machine) if machine else machines.default_for(loaded.sizes.num_parameters)
    machines.check(place, loaded)
    return loaded, place


def show(title: str, rows: Listing, format: Format, only_in_json: Sequence[str] = ()) -> None:
    """A listing as JSON or as a table; `only_in_json` names fields too long for a terminal."""
    if format == "json":
        show_json(rows)
    else:
        out.print(table(title, without(rows, only_in_json)))


def show_json(value: Any) -> None:
    """`value` on stdout, indented."""
    print(json.dumps(value, indent=1))


def announce(line: str) -> None:
    """A line of progress on stderr."""
    err.print(line, markup=False)
