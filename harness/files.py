"""Files written whole or not at all, hashed, and read back: canonical JSON, JSON lines, models, sha256.

A file or folder of the user's own that a recipe names is kept in the run's directory under its pinned name, `NAME@DIGEST`, DIGEST being
the first 16 digits of its content's sha256. The folders such files are kept in are told to other processes by an environment variable;
as a name says what the bytes are, it does not matter which of the folders has them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata, util
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from harness.config import Model, Strict, functions_in
from harness.errors import InputError, MachineError, RecipeError, suggest

KEPT_IN = "HARNESS_FILES"
"""The environment variable: folders, separated as in PATH."""
PINNED = re.compile(r"(?P<name>[^/]+)@(?P<digest>[0-9a-f]{16})")
DIGITS = 16
REQUIRED = {"sources": "load", "engines": "open_engine", "objectives": "loss", "benchmarks": "open_benchmark", "judges": "parse"}
"""The function every component of a kind defines."""


class Output(Strict):
    """A file a stage left: bytes and sha256."""

    size: int
    sha256: str


def canonical(value: Any) -> str:
    """JSON that is the same for equal values; what cannot be encoded the same way twice is an error."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside, flush to disk, rename: a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".tmp")
    with naming_full_disk(path):
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turn ENOSPC into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(path.parent if path.parent.exists() else Path.cwd()).free
        raise MachineError(
            f"disk full while writing {path.name} ({free / 2**20:.0f} MiB free); nothing finished is lost: "
            "free space and run the same command again"
        ) from None


def dump(value: BaseModel) -> bytes:
    """Indented JSON of a model, newline at the end."""
    return (value.model_dump_json(indent=1) + "\n").encode()


def read_model(kind: type[Model], path: Path) -> Model:
    """A model from its file; a damaged file is an `InputError`."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is not a readable {kind.__name__.lower()} ({reason}); restore it or remove its directory") from None


def hash_file(path: Path) -> Output:
    with open(path, "rb") as file:
        return Output(size=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file; a cut or damaged line is an `InputError` naming file and line."""
    for _, value in read_jsonl_offsets(path):
        yield value


def read_jsonl_offsets(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The byte offset of each line of a JSON-lines file and its object, as in `read_jsonl`."""
    offset = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield offset, json.loads(line)
            except ValueError:
                raise InputError(
                    f"{path.parent.name}/{path.name} line {number} is not whole JSON (cut or damaged); remove the file and run again"
                ) from None
            offset += len(line)


def hash_content(path: Path) -> str:
    """The sha256 of a file's bytes, or of a folder's names and hashes; hidden files and Python's caches are none of its content."""
    if path.is_file():
        return hash_file(path).sha256
    files = {str(file.relative_to(path)): hash_file(file).sha256 for file in _content(path)}
    if not files:
        raise InputError(f"{path} is no file, and no folder with files in it; check the path")
    return digest(files)


def _content(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        if file.is_file() and "__pycache__" not in parts and not any(part.startswith(".") for part in parts):
            yield file


def pin(path: Path) -> str:
    """The pinned name of a file or folder."""
    return f"{path.name}@{hash_content(path)[:DIGITS]}"


def bare_name(name: str) -> str:
    """A name without the digest it may be pinned by."""
    parts = PINNED.fullmatch(name)
    return parts["name"] if parts else name


def keep(path: Path, folder: Path) -> None:
    """Copy a file or folder into `folder`, where `kept` finds it under its pinned name."""
    target = folder / hash_content(path)[:DIGITS] / path.name
    for file in [path] if path.is_file() else _content(path):
        write_atomic(target / file.relative_to(path) if file != path else target, file.read_bytes())


def link(path: Path, content: str, folder: Path) -> None:
    """Let `kept` find `path`, whose content has the sha256 `content`, through a link in `folder`: for what is too large to copy."""
    target = folder / content[:DIGITS] / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(path.absolute())


def look_in(folder: Path) -> None:
    """Let this process and those it starts find what is kept in `folder`."""
    known = [name for name in os.environ.get(KEPT_IN, "").split(os.pathsep) if name]
    if str(folder.absolute()) not in known:
        os.environ[KEPT_IN] = os.pathsep.join([str(folder.absolute()), *known])


def kept(pinned: str) -> Path:
    """The file or folder of a pinned name, its bytes those the name states."""
    for path in kept_as(pinned):
        if hash_content(path)[:DIGITS] == pinned.rpartition("@")[2]:
            return path
    raise InputError(f"{pinned} is not kept with the run, or was changed there; run `harness reproduce` with the recipe's own file again")


def kept_as(pinned: str) -> Iterator[Path]:
    """What is kept under a pinned name, whatever its bytes are."""
    parts = PINNED.fullmatch(pinned)
    assert parts is not None
    for folder in filter(None, os.environ.get(KEPT_IN, "").split(os.pathsep)):
        path = Path(folder) / parts["digest"] / parts["name"]
        if path.exists():
            yield path


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
        path = Path(name) if bare == name else kept(name)
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
        raise RecipeError(f"{path.name} defines no function `{REQUIRED[kind]}`; harness/contracts.py says what {kind} define")
    digest = pin(path).rpartition("@")[2]
    return f"{path.name if name.endswith('.py') else name}@{digest}"


def is_shipped(kind: str, path: Path) -> bool:
    """Whether a component's file is harness's own."""
    return path.parent == _shipped(kind)


def _shipped(kind: str) -> Path:
    return Path(__file__).parent / "components" / kind
