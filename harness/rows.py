"""The rows of a recipe's tables, and which of them are compared."""

from __future__ import annotations

from typing import Literal, NamedTuple

from harness.recipe import ITERATION_PATTERN, Recipe


class Row(NamedTuple):
    """A row of the tables. `train_stage` is the path of the stage whose `checkpoint/` it is, None where the weights cannot be pinned.

    `iteration` is t of an iteration. `opponent` is the row that an iteration or a rival starts from and is trained against.
    """

    name: str
    kind: Literal["sft", "control", "rival", "iteration", "anchor"]
    train_stage: str | None
    iteration: int | None = None
    opponent: str | None = None


def rows(recipe: Recipe) -> tuple[str, ...]:
    """The names of the tables' rows, in order."""
    return tuple(row.name for row in table_rows(recipe))


def table_rows(recipe: Recipe) -> tuple[Row, ...]:
    """The rows of the tables, in order: a rival stands before the iterations, or after them where it starts from one."""
    if recipe.anchors:
        return tuple(Row(name, "anchor", f"{name}/model" if anchor.model else None) for name, anchor in recipe.anchors.items())
    sft = Row("sft", "sft", "sft/train" if recipe.sft else "pretraining/train" if recipe.pretraining else "sft/model")
    controls = [Row(name, "control", f"{name}/train") for name in recipe.controls]
    rivals = [Row(name, "rival", f"{name}/train", opponent=rival.start) for name, rival in recipe.rivals.items()]
    iterations = [Row(f"iter{t}", "iteration", f"iter{t}/train", t, opponent_of(t)) for t in range(len(recipe.iterations))]
    early = [rival for rival in rivals if rival.name in baselines(recipe)]
    return (sft, *controls, *early, *iterations, *(rival for rival in rivals if rival not in early))


def baselines(recipe: Recipe) -> tuple[str, ...]:
    """The rows no iteration had a part in: what the last iteration is compared with."""
    names = ["sft", *recipe.controls]
    for row, rival in recipe.rivals.items():
        if rival.start in names:
            names.append(row)
    return tuple(names)


def contests(recipe: Recipe) -> tuple[tuple[str, str], ...]:
    """(row, against): the last iteration against every baseline, and a rival that goes on from an iteration against its start."""
    if not recipe.iterations:
        return ()
    last = f"iter{len(recipe.iterations) - 1}"
    late = [(row, rival.start) for row, rival in recipe.rivals.items() if row not in baselines(recipe)]
    return (*((last, against) for against in baselines(recipe)), *late)


def iteration_of(row: str) -> int | None:
    """t of the row `iterT`; None of any other row."""
    match = ITERATION_PATTERN.fullmatch(row)
    return int(match[1]) if match else None


def opponent_of(t: int) -> str:
    """The row that iteration t is trained against, and that generated its responses."""
    return f"iter{t - 1}" if t else "sft"


def met_by(recipe: Recipe, row: str) -> str:
    """The row whose responses stand beside the real ones where `row` is measured on held-out prompts; `sft` meets itself."""
    return next((one.opponent for one in table_rows(recipe) if one.name == row and one.opponent), "sft")
