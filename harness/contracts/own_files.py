"""Components that are not harness's own, task folders and data files: where they are, their names in an identity, copies in a run."""

from __future__ import annotations

from importlib import metadata, util
from pathlib import Path

from harness import files
from harness.config import Strict, functions_in
from harness.errors import InputError, RecipeError, suggest
from harness.files import PINNED, bare_name, keep, kept, link, pin
from harness.recipe import OWN_KINDS, Part, PromptSource, Recipe, map_references

FILES_DIR, DATA_DIR = "files", "local"
"""In a run's directory: copies of the user's components and task folders, and links to data files, which are not committed."""
REQUIRED = {"sources": "load", "engines": "open_engine", "objectives": "loss", "benchmarks": "open_benchmark", "judges": "parse"}
"""The function every component of a kind defines."""
_PINNED: dict[str, Path] = {}
"""{pinned name: the user's own file}, as this process pinned it: what a plan names can be read before a run keeps it."""


def offered(group: str) -> dict[str, str]:
    """{name: module} of what installed packages offer in an entry-point group."""
    return {point.name: point.value for point in metadata.entry_points(group=group)}


def offered_file(group: str, name: str) -> Path:
    """The file of a module of an entry-point group; a pinned name is that of one file alone."""
    parts, module = PINNED.fullmatch(name), offered(group)[bare_name(name)]
    found = util.find_spec(module)
    if found is None or found.origin is None:
        raise InputError(f"{name} is offered by an installed package as {module}, which is no module; install the package again")
    if parts and not pin(Path(found.origin)).endswith(parts["digest"]):
        raise InputError(f"{name} was another file than {module} that is installed now; install the version the run was made with")
    return Path(found.origin)


def component_file(kind: str, name: str) -> Path:
    """The file of a component: harness's own, the user's, kept with a run under its pinned name, or an installed package's."""
    own = _shipped(kind) / f"{name}.py"
    if own.is_file():
        return own
    bare = bare_name(name)
    if bare.endswith(".py"):
        path = Path(name) if bare == name else _pinned_file(name)
        if not path.is_file():
            raise RecipeError(f"{kind.removesuffix('s')} file {path} does not exist; a path in a recipe is relative to the recipe's file")
        return path
    if bare not in offered(f"harness.{kind}"):
        known = [p.stem for p in _shipped(kind).glob("*.py") if p.stem != "__init__"]
        raise RecipeError(f"no {kind.removesuffix('s')} called {bare!r}{suggest(bare, [*known, *offered(f'harness.{kind}')])}")
    return offered_file(f"harness.{kind}", name)


def pinned(kind: str, name: str) -> str:
    """The name a component bears in an identity: its own, and `NAME@DIGEST` where the file is not harness's."""
    path = component_file(kind, name)
    if is_shipped(kind, path) or PINNED.fullmatch(name):
        return name
    if REQUIRED[kind] not in functions_in(path):
        raise RecipeError(f"{path.name} defines no function `{REQUIRED[kind]}`; harness/contracts/__init__.py says what {kind} define")
    digest = pin(path).rpartition("@")[2]
    found = f"{path.name if name.endswith('.py') else name}@{digest}"
    _PINNED[found] = path
    return found


def _pinned_file(name: str) -> Path:
    """The file of a pinned name: what this process pinned, unless it was changed since, or what is kept with a run."""
    path = _PINNED.get(name)
    return path if path is not None and path.is_file() and pin(path) == name else kept(name)


def is_shipped(kind: str, path: Path) -> bool:
    """Whether a component's file is harness's own."""
    return path.parent == _shipped(kind)


def _shipped(kind: str) -> Path:
    return Path(__file__).parent.parent / "components" / kind


def pinned_parts(part: Part) -> Part:
    """A copy of a recipe or a part of one whose every reference is pinned; a data file's own revision says which bytes it is."""

    def change(kind: str, name: str, owner: Strict) -> str:
        if kind == "data":
            return Path(name).name
        if kind == "task_folders":
            return name if PINNED.fullmatch(name) else pin(Path(name))
        return pinned(kind, name)

    return map_references(part, change)


def keep_parts(recipe: Recipe, run: Path) -> None:
    """Copy the components and task folders of the user's own that a recipe names into the run's `files`, and link its data in `local`."""

    def store(kind: str, name: str, owner: Strict) -> str:
        path = Path(name)
        if kind == "data" and isinstance(owner, PromptSource) and path.is_absolute():
            link(path, str(owner.revision), run / DATA_DIR)
        elif kind != "data" and (name.endswith(".py") or kind in OWN_KINDS):
            keep(path, run / FILES_DIR)
        elif PINNED.fullmatch(name) and name.partition("@")[0].endswith(".py"):
            keep(kept(name), run / FILES_DIR)
        return name

    map_references(recipe, store)


def look_in(run: Path) -> None:
    """Let this process and those it starts find the files kept with a run."""
    files.look_in(run / FILES_DIR, run / DATA_DIR)
