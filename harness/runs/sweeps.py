"""Run a sweep: one recipe after another, each stage that several of them share only once, then one table of all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from harness import machine as machines
from harness.analysis.sweep_table import SWEEP_FILE, SweepRecord, compare_variants
from harness.analysis.table_schema import SeedTable
from harness.artifact import RECIPE_FILE, RunDir, Stage, dump, write_atomic
from harness.errors import InputError
from harness.machine import Machine
from harness.plan import plan
from harness.report.tables_files import write_table, write_tables
from harness.runs import runner
from harness.runs.sharing import share
from harness.runs.sweep import Sweep

Announce = Callable[[str], None]


def run(sweep: Sweep, out: Path, machine: Machine, announce: Announce) -> SeedTable:
    """Make what is missing of every recipe in `out`/NAME and write `out`/tables; a killed sweep continues with the same command.

    What another recipe of the sweep or a run beside `out` has finished is shared.
    """
    record = SweepRecord(
        name=sweep.name,
        summary=sweep.summary,
        runs={variant: tuple(recipe.name for recipe in recipes) for variant, recipes in sweep.variants.items()},
    )
    write_atomic(out / SWEEP_FILE, dump(record))
    runs = {recipe.name: RunDir(out / recipe.name) for recipe in sweep.recipes}
    beside = [*_readable([RunDir(path.parent) for path in sorted(out.resolve().parent.glob(f"*/{RECIPE_FILE}"))], announce)]
    ran = taken = 0
    for number, recipe in enumerate(sweep.recipes, 1):
        own = runs[recipe.name]
        announce(f"{recipe.name} ({number} of {len(runs)})")
        shared = share(plan(recipe), own, [*(other for name, other in runs.items() if name != recipe.name), *beside])
        for stage, made_by in shared:
            announce(f"  {stage.path}: shared with {made_by}")
        ran += runner.reproduce(recipe, own, machine, None, announce)
        taken += len(shared)
        write_tables(own.path)
    announce(f"{ran} stage(s) ran, {taken} were shared; everything is in {out}")
    table = compare_variants(out)
    write_table(out, table)
    return table


def _readable(runs: Iterable[RunDir], announce: Announce) -> Iterator[RunDir]:
    """The runs whose records can be read: what is wrong with a run that is not of the sweep is said, and stops nothing."""
    for run in runs:
        try:
            run.finished()
        except InputError as error:
            announce(f"nothing is shared with {run.path.name}: {error}")
        else:
            yield run


def default_machine(sweep: Sweep) -> Machine:
    """The smallest shipped machine that holds every model of the sweep."""
    return machines.default_for(max(recipe.sizes.num_parameters for recipe in sweep.recipes))


def shared_list(sweep: Sweep) -> list[dict[str, Any]]:
    """How many stages of each kind the recipes plan, and how many must be made since the others are equal; the sums last."""
    stages = [stage for recipe in sweep.recipes for stage in plan(recipe)]
    kinds = dict.fromkeys(stage.kind for stage in stages)
    counts = [_count(kind, [stage for stage in stages if stage.kind == kind]) for kind in kinds]
    return [*counts, _count("all", stages)]


def _count(kind: str, stages: list[Stage]) -> dict[str, Any]:
    made = len({stage.fingerprint for stage in stages})
    return {"stages": kind, "planned": len(stages), "made": made, "shared": len(stages) - made}


def run_list(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """A row for each recipe, in the order in which they run: how many of its stages it makes, and how many are made before it."""
    made: set[str] = set()
    for recipe in sweep.recipes:
        stages = plan(recipe)
        new = {stage.fingerprint for stage in stages} - made
        made |= new
        yield {"recipe": recipe.name, "summary": recipe.summary, "makes": len(new), "shares": len(stages) - len(new)}
