"""What a sweep is: variants of one experiment, each a recipe under several seeds, run and tabulated together.

A sweep is a Python file with a module-level `sweep = Sweep(...)`. It holds no numbers of its own: a variant is a recipe.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from harness.config import Strict, build
from harness.errors import RecipeError
from harness.python_file import find, load_attribute, shipped
from harness.recipe import Recipe, replace

SWEEPS_DIR = shipped("sweeps")
SEED_FIELDS = ("seed", "shuffle_seed")
STRIDE = 1000
"""Between the seeds of two runs: iteration t generates with seed + t, so neighbouring seeds would share draws."""


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
        raise RecipeError(f"{path.name}: `sweep` is a {type(sweep).__name__}, expected a harness.runs.sweep.Sweep")
    return sweep


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
