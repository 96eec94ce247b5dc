"""Frozen data that knows its fields: a misspelt or wrong one is a single clear line, never a traceback."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import RecipeError, suggest


class Strict(BaseModel):
    """Frozen data whose unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Model = TypeVar("Model", bound=BaseModel)


def build(kind: type[Model], **values: Any) -> Model:
    """`kind(**values)` whose validation errors are `RecipeError`s with a suggestion for a misspelt field."""
    try:
        return kind(**values)
    except ValidationError as error:
        raise RecipeError(explain(kind, error)) from None


def explain(kind: type[BaseModel] | None, error: ValidationError) -> str:
    """The first mistake in one line: the field, what was found, and the near one where it is misspelt."""
    first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    field = ".".join(str(part) for part in first["loc"])
    title = kind.__name__ if kind else error.title
    if first["type"] == "extra_forbidden":
        known = _fields_of(title, first["loc"])
        return f"{title} has no field {field!r}{suggest(str(first['loc'][-1]), known)}"
    found = f" (found {first['input']!r})" if isinstance(first["input"], (str, int, float)) else ""
    return f"{title}{'.' + field if field else ''}: {first['msg'].removeprefix('Value error, ')}{found}"


def _fields_of(title: str, loc: tuple[int | str, ...]) -> list[str]:
    model = next((cls for cls in Strict.__subclasses__() if cls.__name__ == title), None)
    if model is None:
        return []
    return list(model.model_fields)
