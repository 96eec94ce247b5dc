"""Frozen data that knows its fields: a misspelt or wrong one is a single clear line, never a traceback."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import RecipeError, suggest


class Strict(BaseModel):
    """Frozen data whose unknown fields are errors, in `model_copy` too, where pydantic would keep them unseen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A validated copy with `update`; values are frozen, so there is nothing to copy deeply."""
        return build(type(self), **{**{name: getattr(self, name) for name in type(self).model_fields}, **(update or {})})


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
        known = _fields_of(title, first["loc"][:-1])
        return f"{title} has no field {field!r}{suggest(str(first['loc'][-1]), known)}"
    found = f" (found {first['input']!r})" if isinstance(first["input"], (str, int, float)) else ""
    return f"{title}{'.' + field if field else ''}: {first['msg'].removeprefix('Value error, ')}{found}"


def _fields_of(title: str, parents: tuple[int | str, ...]) -> list[str]:
    """The fields of the model found by following `parents` from the model called `title`."""
    model = next((cls for cls in Strict.__subclasses__() if cls.__name__ == title), None)
    for part in parents:
        if model is not None and part in model.model_fields:
            model = next(_models_in(model.model_fields[str(part)].annotation), None)
    return list(model.model_fields) if model else []


def _models_in(annotation: Any) -> Iterator[type[Strict]]:
    """The models a field's type mentions: of `tuple[Task, ...]` and `Judge | None` the one inside."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
