"""Who is compared with whom: the rows that had no part in self-play, and the pairs of rows a table speaks about."""

from __future__ import annotations

from harness.recipe import Recipe


def baselines(recipe: Recipe) -> tuple[str, ...]:
    """The rows no iteration had a part in: what the last iteration is compared with."""
    found = ["sft", *recipe.controls]
    for row, rival in recipe.rivals.items():
        if rival.start in found:
            found.append(row)
    return tuple(found)


def contests(recipe: Recipe) -> tuple[tuple[str, str], ...]:
    """(row, against): the last iteration against every baseline, and a rival that goes on from an iteration against its start."""
    if not recipe.iterations:
        return ()
    last = f"iter{len(recipe.iterations) - 1}"
    late = [(row, rival.start) for row, rival in recipe.rivals.items() if row not in baselines(recipe)]
    return (*((last, against) for against in baselines(recipe)), *late)
