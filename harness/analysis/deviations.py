"""Where recipes differ: from each other, and from what the paper states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
        used = flat.get(field, _parts(flat, field))
        if used != value:
            kind: Literal["deviation", "gap"] = "gap" if value == not_stated else "deviation"
            found.append(Deviation(field, value, used, kind, reason_for(recipe, field)))
    return found


def _parts(flat: Mapping[str, Any], field: str) -> dict[str, Any] | None:
    """Of a setting that has parts, such as adapters: {part: value}; None where there is no such setting."""
    return {name.removeprefix(f"{field}."): value for name, value in flat.items() if name.startswith(f"{field}.")} or None


def reason_for(recipe: Recipe, field: str) -> str | None:
    """The reason given for `field` or its nearest parent."""
    parts = field.split(".")
    for end in range(len(parts), 0, -1):
        reason = recipe.because.get(".".join(parts[:end]))
        if reason:
            return reason
    return None


EVALUATED_WITH = ("sft_model", "precision", "seed")
"""What is no difference of training: compared elsewhere, or chance."""


def training_differences(recipe: Recipe, last: int) -> tuple[str, ...]:
    """Where the training of iterations 0 to `last` is not the paper's: by its text or its release, whichever is the nearer.

    What the one compared with does not state is free; adapters, grouping and parameters must be as in neither's code: absent.
    """
    known = (("the paper's", paper.SETTINGS), ("the release's", paper.RELEASED))
    nearest = min((tuple(_differences(recipe, last, facts, whose)) for whose, facts in known), key=len)
    extra = {
        "lora": recipe.lora is not None,
        "grouping": recipe.grouping != "pairs",
        "parameters": any(iteration.parameters for iteration in recipe.iterations[: last + 1]),
    }
    return (*nearest, *(f"{field}: the paper trained without" for field, used in extra.items() if used))


def _differences(recipe: Recipe, last: int, facts: Mapping[str, paper.Fact], whose: str) -> Iterator[str]:
    flat = flatten(recipe)
    for field, fact in facts.items():
        parts = field.split(".")
        later = parts[0] == "iterations" and int(parts[1]) > last
        if not later and parts[0] not in EVALUATED_WITH and fact.value != paper.NOT_STATED and flat.get(field) != fact.value:
            yield f"{field}: ours {flat.get(field)}, {whose} {fact.value}"


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
