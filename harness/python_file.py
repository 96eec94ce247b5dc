"""Recipes and machines are Python files: where the shipped ones are, and how one is found and read without trusting it to be right."""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.config import explain
from harness.errors import RecipeError, suggest


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
    spec = importlib.util.spec_from_file_location(f"harness_loaded_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ValidationError as error:
        raise RecipeError(f"{path.name}: {explain(None, error)}") from None
    except RecipeError as error:
        raise RecipeError(f"{path.name}: {error}") from None
    except Exception as error:  # whatever a user's file raises is the user's mistake
        line = next((frame.lineno for frame in reversed(traceback.extract_tb(error.__traceback__)) if frame.filename == str(path)), None)
        where = f"{path.name} line {line}" if line else path.name
        raise RecipeError(f"{where}: {type(error).__name__}: {error}; correct the file") from None
    if not hasattr(module, attribute):
        raise RecipeError(f"{path.name} defines no `{attribute}`; expected a module-level `{attribute} = ...`")
    return getattr(module, attribute)
