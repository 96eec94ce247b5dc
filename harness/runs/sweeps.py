"""A sweep: variants of one experiment, each a recipe under several seeds; run one after another, each shared stage only once.

A sweep is a Python file with a module-level `sweep = Sweep(...)`. It holds no numbers of its own: a variant is a recipe. Its directory
holds `sweep.json` ({"name", "summary", "runs": {variant: [run's directory, one a seed]}}) beside the runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from harness.artifact import RECIPE_FILE, RunDir, Stage
from harness.config import InnerPath, Strict, build, find, load_attribute, shipped
from harness.errors import InputError, RecipeError
from harness.files import dump, read_model, write_atomic
from harness.machine import Machine
from harness.plan import plan
from harness.recipe import Recipe, located, replace
from harness.runs import runner
from harness.runs.launches import Announce
from harness.runs.needs import hardware
from harness.runs.sharing import share

SWEEPS_DIR = shipped("sweeps")
SEED_FIELDS = ("seed", "shuffle_seed")
STRIDE = 1000
"""Between the seeds of two runs: iteration t generates with seed + t, so neighbouring seeds would share draws."""
SWEEP_FILE = "sweep.json"


class Sweep(Strict):
    """`variants` maps a name to recipes that differ in their seeds alone, the same number for every variant, in one order.

    The first variant is the one the others are compared with.
    """

    name: str
    summary: str
    variants: dict[str, tuple[Recipe, ...]]

    @model_validator(mode="after")
    def _is_rectangular(self) -> Self:
        counts = {name: len(recipes) for name, recipes in self.variants.items()}
        if not counts or 0 in counts.values() or len(set(counts.values())) > 1:
            raise ValueError(f"the variants have {counts} recipes; expected at least one variant, and equally many seeds of each")
        names = [recipe.name for recipe in self.recipes]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"recipes named {', '.join(repeated)} stand twice in the sweep; give each a name of its own")
        return self

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """All of them, seed by seed: after the first few runs a whole seed can be compared."""
        return tuple(recipe for seed in zip(*self.variants.values(), strict=True) for recipe in seed)


def load(name_or_file: str) -> Sweep:
    """The sweep called `name_or_file` in sweeps/, or the `sweep` of a Python file."""
    path = find(name_or_file, available(), "sweep")
    sweep = load_attribute(path, "sweep")
    if not isinstance(sweep, Sweep):
        raise RecipeError(f"{path.name}: `sweep` is a {type(sweep).__name__}, expected a harness.runs.sweeps.Sweep")
    return located(sweep, path.parent)


def available() -> dict[str, Path]:
    """{sweep name: file} of sweeps/."""
    return {path.stem.replace("_", "-"): path for path in sorted(SWEEPS_DIR.glob("*.py"))}


def seeded(recipe: Recipe, seeds: int) -> tuple[Recipe, ...]:
    """`recipe` under `seeds` seeds: itself first, then with every seed in it (weights, prompts, order, draws) moved by 1000 each time.

    They are named NAME-seed0, NAME-seed1, and so on.
    """
    values = {name: getattr(recipe, name) for name in Recipe.model_fields if name != "because"}
    return tuple(
        replace(build(Recipe, **{**_moved(values, k * STRIDE), "because": recipe.because}), name=f"{recipe.name}-seed{k}")
        for k in range(seeds)
    )


def _moved(value: Any, by: int) -> Any:
    """`value` with `by` added to every seed in it; models become dicts."""
    if isinstance(value, Strict):
        value = {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {name: item + by if name in SEED_FIELDS else _moved(item, by) for name, item in value.items()}
    return tuple(_moved(item, by) for item in value) if isinstance(value, tuple) else value


class SweepRecord(Strict):
    """What `sweep.json` holds. The runs lie beside it, under their recipes' names."""

    name: str
    summary: str
    runs: dict[str, tuple[InnerPath, ...]]

    def folders(self, folder: Path) -> list[Path]:
        """The directories of all runs of the sweep at `folder`, variant by variant."""
        return [folder / name for names in self.runs.values() for name in names]


def read_sweep(folder: Path) -> SweepRecord:
    """The record of the sweep at `folder`."""
    return read_model(SweepRecord, folder / SWEEP_FILE)


def is_sweep(folder: Path) -> bool:
    """Whether `folder` is a sweep's directory."""
    return (folder / SWEEP_FILE).exists()


def run(sweep: Sweep, out: Path, machine: Machine, announce: Announce) -> None:
    """Make what is missing of every recipe in `out`/NAME.

    A killed sweep continues with the same command. What another recipe of the sweep or a run beside `out` has finished is shared.
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
    announce(f"{ran} stage(s) ran, {taken} were shared; everything is in {out}")


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
    """What this computer is for the sweep's largest model."""
    return hardware.machine_for(max(sweep.recipes, key=lambda recipe: recipe.sizes.num_parameters), hardware.look())


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
