"""Files written whole or not at all, hashed, and read back: canonical JSON, JSON lines, models, sha256.

A file or folder of the user's own that a recipe names is kept in the run's directory under its pinned name, `NAME@DIGEST`, DIGEST being
the first 16 digits of its content's sha256. The folders such files are kept in are told to other processes by an environment variable;
as a name says what the bytes are, it does not matter which of the folders has them.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from harness.config import Model, Strict
from harness.errors import InputError, MachineError

KEPT_IN = "HARNESS_FILES"
"""The environment variable: folders, separated as in PATH."""
PINNED = re.compile(r"(?P<name>[^/]+)@(?P<digest>[0-9a-f]{16})")
DIGITS = 16

FULL_DISK_WORDS = (
    "No space left on device",
    "Disk quota exceeded",
    "os error 28",
    "Not enough disk space",
    "inline_container.cc",  # torch's writer, which does not say why it could not write
)
DAMAGED_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)
"""What unpacking raises where a byte was changed or the end is missing."""
NO_JSON = (ValueError, RecursionError)
"""What `json` raises at text that is no JSON, or is nested too deeply to be read."""
TOLD: list[Callable[[Path, bytes], None]] = []
"""Are told what a file's bytes will be, before it has its name."""
SETTLED_SECONDS = 2.0
"""More than the coarsest clock of a file system in use."""


class Output(Strict):
    """A file a stage left: bytes and sha256."""

    model_config = ConfigDict(strict=True)

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


def canonical(value: Any) -> str:
    """JSON that is the same for equal values; what cannot be encoded the same way twice is an error."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _has_canonical(value: dict[str, Any]) -> dict[str, Any]:
    canonical(value)
    return value


JsonObject = Annotated[dict[str, Any], AfterValidator(_has_canonical)]
"""Read from JSON; what its values are is not known, but numbers are finite (pydantic's own check does not look into `Any`)."""


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
        for tell in TOLD:
            tell(path, data)
        beside.replace(path)


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turn a full disk, whichever library met it, into an error that says what to do."""
    try:
        yield
    except BaseException as error:  # torch's sharded states raise one that is no Exception
        if not is_disk_full(error):
            raise
        free = shutil.disk_usage(path.parent if path.parent.exists() else Path.cwd()).free
        raise MachineError(
            f"disk full while writing {path.name} ({free / 2**20:.0f} MiB free); nothing finished is lost: "
            "free space and run the same command again"
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, newline at the end."""
    write_atomic(path, (json.dumps(value, indent=1) + "\n").encode())


def write_jsonl(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """A JSON object a line, text unescaped."""
    write_atomic(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed for want of space or quota: by its number, or by what safetensors, tokenizers and torch say of it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(words in str(error) for words in FULL_DISK_WORDS)


def dump(value: BaseModel) -> bytes:
    """Indented JSON of a model, newline at the end."""
    return (value.model_dump_json(indent=1) + "\n").encode()


def read_model(kind: type[Model], path: Path) -> Model:
    """A model from its file; a damaged file is an `InputError`."""
    return parse_model(kind, plain(path).read_bytes(), path)


def parse_model(kind: type[Model], content: bytes, path: Path, recorded: Output | None = None) -> Model:
    """A model from the bytes of the file at `path`, which must be those that a record names where one is given."""
    if recorded is not None and hash_bytes(content) != recorded:
        raise InputError(f"{path} is not the file its record names (another sha256); restore it, or see `harness verify`")
    try:
        return kind.model_validate_json(content)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is not a readable {kind.__name__.lower()} ({reason}); restore it or remove its directory") from None


def hash_bytes(content: bytes) -> Output:
    """As `hash_file`, of bytes."""
    return Output(size=len(content), sha256=hashlib.sha256(content).hexdigest())


def hash_file(path: Path) -> Output:
    """Size and sha256 of a plain file; a device or a pipe, which might never end, is an `InputError`."""
    return _hash_stamped(path)[1]


class Stamp(NamedTuple):
    """What the file system says of a file's bytes. The kernel alone sets `ctime_ns`: a copy that keeps size, inode and mtime changes it."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class Hashes:
    """Hashes of files in one process, each read once while its stamp stays.

    A file that changed within `SETTLED_SECONDS` before it was read is read again next time: two changes so near may bear one time.
    """

    def __init__(self) -> None:
        self._known: dict[Stamp, Output] = {}

    def of(self, path: Path) -> Output:
        """As `hash_file`."""
        found = self._known.get(_stamp(path.stat()))
        if found is None:
            began = time.time_ns()
            stamp, found = _hash_stamped(path)
            if began - stamp.ctime_ns > SETTLED_SECONDS * 1e9:
                self._known[stamp] = found
        return found


def plain(path: Path) -> Path:
    """`path`, where a plain file is there; to read a pipe or a device might never end. Else an `InputError`."""
    if not path.is_file():
        raise InputError(f"{path} is missing or no plain file; expected a file that harness wrote")
    return path


def _hash_stamped(path: Path) -> tuple[Stamp, Output]:
    """The hash and the stamp of the file it was made of; a file that changes meanwhile is an `InputError`."""
    with open(plain(path), "rb") as file:
        before = _stamp(os.fstat(file.fileno()))
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if _stamp(os.fstat(file.fileno())) != before:
            raise InputError(f"{path} changed while it was read; wait for what writes it to end, and run again")
    return before, Output(size=before.size, sha256=sha256)


def _stamp(found: os.stat_result) -> Stamp:
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file; a cut or damaged line is an `InputError` naming file and line."""
    for _, value in read_jsonl_offsets(path):
        yield value


def read_jsonl_offsets(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The byte offset of each line of a JSON-lines file and its object, as in `read_jsonl`."""
    with open(plain(path), "rb") as file:
        yield from parse_jsonl(file, path)


def parse_jsonl(lines: Iterable[bytes], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `read_jsonl_offsets`, of the lines of the file at `path`."""
    offset = 0
    for number, line in enumerate(lines, 1):
        try:
            yield offset, json.loads(line)
        except NO_JSON:
            raise InputError(
                f"{path.parent.name}/{path.name} line {number} is not whole JSON (cut or damaged); remove the file and run again"
            ) from None
        offset += len(line)


def hash_content(path: Path) -> str:
    """The sha256 of a file's bytes, or of a folder's names and hashes; hidden files and Python's caches are none of its content."""
    if path.is_file():
        return hash_file(path).sha256
    files = {str(file.relative_to(path)): hash_file(file).sha256 for file in files_of(path)}
    if not files:
        raise InputError(f"{path} is no file, and no folder with files in it; check the path")
    return digest(files)


def files_of(folder: Path) -> Iterator[Path]:
    """The files of a folder, which are its content: without hidden ones and Python's caches."""
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
    for file in [path] if path.is_file() else files_of(path):
        write_atomic(target / file.relative_to(path) if file != path else target, file.read_bytes())


def link(path: Path, content: str, folder: Path) -> None:
    """Let `kept` find `path`, whose content has the sha256 `content`, through a link in `folder`: for what is too large to copy."""
    target = folder / content[:DIGITS] / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(path.absolute())


def look_in(*folders: Path) -> None:
    """Let this process and those it starts find what is kept in `folders`."""
    known = [name for name in os.environ.get(KEPT_IN, "").split(os.pathsep) if name]
    new = [str(folder.absolute()) for folder in folders if str(folder.absolute()) not in known]
    os.environ[KEPT_IN] = os.pathsep.join([*new, *known])


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
