"""Imports go down only, folders hold what their names say, and the parts stay small."""

import ast
from pathlib import Path

import pytest

from tests import ROOT

PACKAGE = ROOT / "harness"
LAYERS = [
    {"__main__"},
    {"cli"},
    {"report"},
    {"analysis"},
    {"runs"},
    {"stages", "components"},
    {"evaluation", "training"},
    {"lm", "plan"},
    {"rows"},
    {"artifact"},
    {"contracts"},
    {"machine"},
    {"recipe"},
    {"recipe_parts", "files"},
    {"config"},
    {"errors", "paper"},
]
"""From the top; those of one line do not import each other."""
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_FILES, MAX_FOLDERS, MAX_MODULES = 12, 10, 13


def part(path: Path) -> str:
    """The folder or the top file a module belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The parts of the package a module imports, at any depth of its code."""
    parts: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "harness":
            parts |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("harness."):
            parts.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            parts |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("harness.")}
    return parts


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    """A module imports only from its own folder and from lines below; components reach each other through contracts.load."""
    if part(path) != "__init__":
        allowed = {part(path)} if path.parent != PACKAGE else set()
        assert {name for name in imported(path) - allowed if LEVEL[name] <= LEVEL[part(path)]} == set()


def test_components_do_not_import_each_other() -> None:
    """A recipe puts components together; they find each other by name, so that a user's own can stand in for any of them."""
    assert [path.name for path in (PACKAGE / "components").rglob("*.py") if "components" in imported(path)] == []


def test_a_folder_can_be_taken_in_at_a_glance() -> None:
    """At most 12 files on top, 10 folders, and 13 modules in a folder (components: of a kind)."""
    shipped = {"recipes", "machines", "sweeps", "__pycache__"}
    folders = [path for path in PACKAGE.iterdir() if path.is_dir() and path.name not in shipped]
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= MAX_FILES
    assert len(folders) <= MAX_FOLDERS
    for folder in (*folders, *(PACKAGE / "components").iterdir()):
        modules = [path for path in folder.glob("*.py") if path.stem != "__init__"] if folder.is_dir() else []
        assert len(modules) <= MAX_MODULES, folder.name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_stay_small(path: Path) -> None:
    """No module over 300 lines, no function over 60."""
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name
