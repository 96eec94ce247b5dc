"""Blocks about what others released for a row, where the user put it into the run: RUN/released/ROW.

trainer_state.json                   beside the row's training curve
responses.parquet, .jsonl, .json     beside the responses of that iteration
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.analysis.forensics import response_sets, training_state
from harness.artifact import RunDir
from harness.recipe import Recipe
from harness.report.formatting import Block
from harness.rows import rows

FOLDER = "released"


def released_blocks(run: RunDir, recipe: Recipe) -> Iterator[Block]:
    """A block for each released artifact that lies in the run; none where there is none."""
    for row in rows(recipe):
        folder = run.path / FOLDER / row
        if (folder / "trainer_state.json").exists():
            yield training_block(row, training_state.compare(run, row, folder / "trainer_state.json"))
    for t in range(len(recipe.iterations)):
        for path in sorted((run.path / FOLDER / f"iter{t}").glob("responses.*")):
            yield responses_block(f"iter{t}", path, response_sets.compare([run], t, str(path), "train"))


def training_block(row: str, found: training_state.Comparison) -> Block:
    """Where the released training parts from ours."""
    grid = tuple(
        (
            curve.quantity,
            str(curve.num_points),
            "nowhere" if curve.parts_at is None else str(curve.parts_at),
            f"{curve.ours:.4g}",
            f"{curve.theirs:.4g}",
            f"{curve.difference:+.3g}" + ("" if curve.low is None else f" [{curve.low:+.3g}, {curve.high:+.3g}]"),
        )
        for curve in found.curves
    )
    header = ("", "logged steps", "parts at step", "ours", "theirs", "ours - theirs")
    told = (f"{line[0].upper()}{line[1:]}." for line in found.conclusions)
    lines = (*told, "Means from the parting on; 95 % t interval over logged steps.")
    return Block(f"Published training: {row}", header, grid, lines)


def responses_block(row: str, path: Path, found: list[response_sets.Comparison]) -> Block:
    """How far our responses and the released ones run together."""
    header = ("", "prompts", "identical", "common prefix", "of the shorter", "our length", "their length")
    grid = tuple(
        (
            one.run, str(one.matched), str(one.identical), f"{one.common_prefix:g}", f"{one.common_share:.0%}",
            f"{one.our_length:.0f}", f"{one.their_length:.0f}",
        )
        for one in found
    )  # fmt: skip
    lines = (*(f"{one.run}: {one.verdict}." for one in found), "Prefixes are medians, lengths means, in characters.")
    return Block(f"Published responses: {row}, {path.name}", header, grid, lines)
