"""What the Python code of lm-eval's tasks needs beside lm-eval: packages, and nltk's data, which is read only while answers are scored.

Read from the source: the functions that a task's YAML names, the modules they lie in, and those modules' imports within lm-eval.
Nothing is imported, so that it can be asked before a run.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

FUNCTION = re.compile(r"!function +([\w.]+)\.\w+")
INCLUDE = re.compile(r"""^include *: *["']?([^\s"'#]+)""", re.MULTILINE)
NLTK = re.compile(r"""nltk\.data\.find\(\s*["']([\w/]+)["']""")
DISTRIBUTIONS = {"antlr4": "antlr4-python3-runtime", "pkg_resources": "setuptools<81", "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""Where a module's name is not that of its package."""


def lacking(files: Iterable[Path], library: Path) -> list[tuple[str, str]]:
    """(what is missing and who needs it, the command that gets it) for the tasks of YAML `files`; `library` is lm-eval's own folder."""
    found: dict[str, tuple[str, str]] = {}
    for path in sorted(_modules_of(files, library)):
        for package in _packages(path):
            if find_spec(package) is None:
                found[package] = (f"{path.parent.name} needs the package {package}", f"pip install '{DISTRIBUTIONS.get(package, package)}'")
        for resource in NLTK.findall(path.read_text()):
            if not _has_nltk(resource):
                command = f"python -m nltk.downloader {resource.rpartition('/')[2]}"
                found[resource] = (f"{path.parent.name} scores with nltk's {resource}, which is not here", command)
    return [*found.values()]


def _modules_of(files: Iterable[Path], library: Path) -> set[Path]:
    """The Python files behind YAML files, those that they import included."""
    found: set[Path] = set()
    left = [module for path in files for module in _named_in(path)]
    while left:
        path = left.pop()
        if path not in found and path.is_file():
            found.add(path)
            left += _imported(path, library)
    return found


def _named_in(path: Path) -> Iterator[Path]:
    """The files of the functions that a YAML file names, or that one it includes does."""
    text = path.read_text(errors="replace")
    for module in FUNCTION.findall(text):
        yield path.parent / f"{module.replace('.', '/')}.py"
    for other in INCLUDE.findall(text):
        if (included := path.parent / other) != path and included.is_file():
            yield from _named_in(included)


def _imports(path: Path) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """(module, how many folders up, names) of the imports that run as the file is loaded, but for those it can do without."""
    for node in _tree(path).body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level, tuple(alias.name for alias in node.names)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _imported(path: Path, library: Path) -> Iterator[Path]:
    """The files within lm-eval, or beside this one, that it imports."""
    for module, level, names in _imports(path):
        start = path.parents[level - 1] if level else library.parent
        base = start.joinpath(*module.split(".")) if module else start
        if level or module.partition(".")[0] == library.name:
            yield base.with_suffix(".py")
            yield from (base / f"{name}.py" for name in names)


def _packages(path: Path) -> set[str]:
    """The packages that the file imports, but for Python's own and its neighbours."""
    tops = {module.partition(".")[0] for module, level, _ in _imports(path) if not level}
    return {top for top in tops if top not in sys.stdlib_module_names and not (path.parent / f"{top}.py").exists()}


def _has_nltk(resource: str) -> bool:
    """Whether nltk's data is in one of the folders that nltk looks into, unpacked or as it was fetched; importing nltk takes seconds."""
    own = [Path(folder) for folder in os.environ.get("NLTK_DATA", "").split(os.pathsep) if folder]
    prefix = [Path(sys.prefix) / part for part in ("nltk_data", "share/nltk_data", "lib/nltk_data")]
    shared = [Path(root) / "nltk_data" for root in ("/usr/share", "/usr/local/share", "/usr/lib", "/usr/local/lib")]
    folders = [*own, Path.home() / "nltk_data", *prefix, *shared]
    return any((folder / name).exists() for folder in folders for name in (resource, f"{resource}.zip"))
