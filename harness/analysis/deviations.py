"""Where recipes part: from each other, and from what the paper states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from harness.recipe import Recipe


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested models, dicts and tuples as {dotted path: leaf}; a tuple of leaves is a leaf."""
    if isinstance(value, BaseModel):
        value = {name: getattr(value, name) for name in type(value).model_fields}
    elif isinstance(value, (tuple, list)) and any(isinstance(item, (BaseModel, dict)) for item in value):
        value = {str(i): item for i, item in enumerate(value)}
    if not isinstance(value, Mapping) or not value:
        return {prefix: tuple(value) if isinstance(value, list) else value}
    flat: dict[str, Any] = {}
    for name, item in value.items():
        flat.update(flatten(item, f"{prefix}.{name}" if prefix else str(name)))
    return flat


class Deviation(NamedTuple):
    """A field where a recipe and the stated settings part. `kind` is 'deviation', or 'gap' where the text states nothing."""

    field: str
    stated: Any
    used: Any
    kind: Literal["deviation", "gap"]
    reason: str | None


def deviations(recipe: Recipe, stated: Mapping[str, Any], not_stated: object) -> list[Deviation]:
    """Where `recipe` parts from `stated` ({dotted path: value}), each with its reason from `because` or None.

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
