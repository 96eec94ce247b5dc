"""Files written whole or not at all, hashed, and read back: canonical JSON, JSON lines, models, sha256."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from harness.config import Model, Strict
from harness.errors import InputError, MachineError

FULL_DISK_WORDS = (
    "No space left on device",
    "Disk quota exceeded",
    "os error 28",
    "Not enough disk space",
    "inline_container.cc",  # torch's writer, which does not say why it could not write
)


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
