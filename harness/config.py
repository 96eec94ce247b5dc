"""Frozen data that knows its fields: a misspelt or wrong one is a single clear line, never a traceback."""

from __future__ import annotations

import ast
import importlib.util
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NamedTuple, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from harness.errors import RecipeError, suggest

UNKNOWN_FIELD = "unknown_field"


class Strict(BaseModel):
    """Frozen data whose unknown fields are errors, in `model_copy` too, where pydantic would keep them unseen. Numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _has_its_fields_alone(cls, values: Any) -> Any:
        for name in values if isinstance(values, Mapping) else ():
            if name not in cls.model_fields:
                hint = suggest(str(name), cls.model_fields)
                raise PydanticCustomError(UNKNOWN_FIELD, "no such field{hint}", {"name": name, "hint": hint})
        return values

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A validated copy with `update`, in which what was never stated keeps its default; values are frozen: nothing to copy deeply."""
        return build(type(self), **{**{name: getattr(self, name) for name in self.model_fields_set}, **(update or {})})


Model = TypeVar("Model", bound=BaseModel)
MAX_PARTS, MAX_LENGTH = 12, 1000
"""Of a path inside a directory."""


def _is_inside(path: str) -> str:
    """`path`, where it leads from a directory into that directory on every system; else a ValueError."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or ":" in path or not path.isprintable():
        raise ValueError("is no path inside a directory (found an absolute one, '..', or characters that no name has)")
    if len(parts) > MAX_PARTS or len(path) > MAX_LENGTH:
        raise ValueError(f"is a path of more than {MAX_PARTS} names or {MAX_LENGTH} characters")
    return path


def is_name(name: str) -> str:
    """`name`, where a file can have it; else a ValueError."""
    if "/" in name:
        raise ValueError("becomes a file's name, so it holds no '/'")
    return _is_inside(name)


InnerPath = Annotated[str, AfterValidator(_is_inside)]
"""A path relative to a directory, in it."""
FileName = Annotated[str, AfterValidator(is_name)]
"""A name that a file can have."""


class Reference(NamedTuple):
    """Marks a field that names a component of this kind, or the user's own file or folder that stands in for one."""

    kind: str


def title(name: str) -> str:
    """A component's name as shown: `mine` of `/home/me/mine.py` and of `mine.py@DIGEST`."""
    return Path(name).name.partition("@")[0].removesuffix(".py")


def _has_title(name: str) -> str:
    is_name(title(name))
    return name


Source = Annotated[str, Reference("sources")]
Engine = Annotated[str, Reference("engines")]
Objective = Annotated[str, Reference("objectives")]
BenchmarkName = Annotated[str, Reference("benchmarks"), AfterValidator(_has_title)]
TaskFolder = Annotated[str | None, Reference("task_folders")]
JudgeName = Annotated[str, Reference("judges")]


def build(kind: type[Model], **values: Any) -> Model:
    """`kind(**values)` whose validation errors are `RecipeError`s with a suggestion for a misspelt field."""
    try:
        return kind(**values)
    except ValidationError as error:
        raise RecipeError(explain(kind, error)) from None


def explain(kind: type[BaseModel] | None, error: ValidationError) -> str:
    """The first mistake in one line: the field and what was found, or the near one where a field is misspelt."""
    first = min(error.errors(), key=lambda item: item["type"] != UNKNOWN_FIELD)
    model = kind.__name__ if kind else error.title
    if first["type"] == UNKNOWN_FIELD:
        field = ".".join(map(str, (*first["loc"], first["ctx"]["name"])))
        return f"{model} has no field {field!r}{first['ctx']['hint']}"
    field = "".join(f".{part}" for part in first["loc"])
    value = f" (found {first['input']!r})" if isinstance(first["input"], (str, int, float)) else ""
    return f"{model}{field}: {first['msg'].removeprefix('Value error, ')}{value}"


def first_fault(error: ValidationError) -> str:
    """Where data from outside is wrong first, and how, in one line; nothing of the data's own text."""
    fault = error.errors(include_input=False, include_url=False)[0]
    return ": ".join(filter(None, (".".join(map(str, fault["loc"])), fault["msg"])))


def shipped(folder: str) -> Path:
    """The directory `folder` of recipes or machines: inside the package in a wheel, beside it in a checkout."""
    inside = Path(__file__).parent / folder
    return inside if inside.is_dir() else Path(__file__).parent.parent / folder


def find(name_or_file: str, known: Mapping[str, Path], what: str) -> Path:
    """The file of a known name, or the file itself; an error with a suggestion for anything else."""
    if name_or_file in known:
        return known[name_or_file]
    path = Path(name_or_file)
    if path.suffix == ".py":
        if path.is_file():
            return path
        raise RecipeError(f"{what} file {name_or_file} does not exist")
    raise RecipeError(f"no {what} called {name_or_file!r}{suggest(name_or_file, known)}")


def load_attribute(path: Path, attribute: str) -> Any:
    """Execute the Python file at `path` and return its `attribute`."""
    module = load_module(path, f"harness_loaded_{path.stem}")
    if attribute not in vars(module):
        raise RecipeError(f"{path.name} defines no `{attribute}`; expected a module-level `{attribute} = ...`")
    return vars(module)[attribute]


def load_module(path: Path, name: str) -> ModuleType:
    """Execute the Python file at `path` as module `name`; whatever it raises is a `RecipeError` that names file and line."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look a class's module up
    try:
        spec.loader.exec_module(module)
    except ValidationError as error:
        raise RecipeError(f"{path.name}: {explain(None, error)}") from None
    except RecipeError as error:
        raise RecipeError(f"{path.name}: {error}") from None
    except (Exception, SystemExit) as error:  # whatever a user's file raises is the user's mistake
        raise mistake(path, error) from None
    return module


def constant(path: Path, name: str, example: str, absent: Any = None) -> Any:
    """The value of a module-level literal of a Python file, which is not executed; `example` says how it is stated.

    Where it is not stated: `absent`, or a `RecipeError` where that is None.
    """
    for node in _parse(path).body:
        if name in _assigned(node):
            assert isinstance(node, (ast.Assign, ast.AnnAssign))
            try:
                return ast.literal_eval(node.value or ast.Constant(None))
            except ValueError:
                raise RecipeError(f"{path.name} line {node.lineno}: {name} is not a literal; write `{name} = {example}`") from None
    if absent is not None:
        return absent
    raise RecipeError(f"{path.name} states no {name}; add `{name} = {example}`")


def defines(path: Path, name: str) -> bool:
    """Whether `path` is a Python file that assigns `name` at module level; it is not executed."""
    return path.suffix == ".py" and path.is_file() and any(name in _assigned(node) for node in _parse(path).body)


def _assigned(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def functions_in(path: Path) -> dict[str, tuple[str, ...]]:
    """{function: its keyword-only arguments} of a Python file, which is not executed."""
    body = _parse(path).body
    return {node.name: tuple(argument.arg for argument in node.args.kwonlyargs) for node in body if isinstance(node, ast.FunctionDef)}


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise mistake(path, error) from None


def mistake(path: Path, error: BaseException) -> RecipeError:
    """What a file of the user's own raised, as an error that names its line."""
    line = error.lineno if isinstance(error, SyntaxError) else line_in(path, error)
    where = f"{path.name} line {line}" if line else path.name
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    reason = f"{type(error).__name__}: {message}".removesuffix(": ")
    return RecipeError(f"{where}: {reason}; correct the file")


def line_in(path: Path, error: BaseException) -> int | None:
    """The innermost line of the file at `path` that `error` passed through."""
    return next((frame.lineno for frame in reversed(traceback.extract_tb(error.__traceback__)) if frame.filename == str(path)), None)


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
