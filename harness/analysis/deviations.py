"""Where recipes differ: from each other, and from what the paper states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from harness import paper
from harness.config import flatten
from harness.recipe import Recipe


class Deviation(NamedTuple):
    """A field where a recipe and the stated settings differ. `kind` is 'deviation', or 'gap' where the text states nothing."""

    field: str
    stated: Any
    used: Any
    kind: Literal["deviation", "gap"]
    reason: str | None


def deviations(recipe: Recipe, stated: Mapping[str, Any], not_stated: object) -> list[Deviation]:
    """Where `recipe` differs from `stated` ({dotted path: value}), each with its reason from `because` or None.

    A reason may stand at the path or at any parent of it ('iterations' covers 'iterations.1.beta').
    """
    flat = flatten(recipe)
    found = []
    for field, value in stated.items():
        used = flat.get(field)
        if used != value:
            kind: Literal["deviation", "gap"] = "gap" if value == not_stated else "deviation"
            found.append(Deviation(field, value, used, kind, reason_for(recipe, field)))
    return found


def reason_for(recipe: Recipe, field: str) -> str | None:
    """The reason given for `field` or its nearest parent."""
    parts = field.split(".")
    for end in range(len(parts), 0, -1):
        reason = recipe.because.get(".".join(parts[:end]))
        if reason:
            return reason
    return None


Listing = list[dict[str, Any]]


def deviation_list(recipe: Recipe) -> Listing:
    """Where a recipe differs from the paper, or fills a gap in it."""
    stated = {field: fact.value for field, fact in paper.SETTINGS.items()}
    return [
        {
            "field": found.field,
            "kind": found.kind,
            "stated": found.stated,
            "used": found.used,
            "source": paper.SETTINGS[found.field].source,
            "where": paper.SETTINGS[found.field].where,
            "reason": found.reason,
        }
        for found in deviations(recipe, stated, paper.NOT_STATED)
    ]
