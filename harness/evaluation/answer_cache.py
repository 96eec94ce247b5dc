"""Answers a benchmark already has from its model, on disk: a killed task asks only for what is missing.

A file holds the answers to one list of requests by one model: its name is the hash of both, so no answer can reach another model, another
precision or other requests. It grows by a line a unit of work, which begins with a hash of the rest; a line cut by a kill is dropped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.files import NO_JSON, canonical, hash_file, naming_full_disk


def hash_checkpoint(folder: Path) -> str:
    """sha256 over the names and contents of a checkpoint's files."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return hashlib.sha256(canonical([[path.name, hash_file(path).sha256] for path in files]).encode()).hexdigest()


def identity(parts: Iterable[Any]) -> str:
    """sha256 of values that have one JSON form each, read one at a time."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(canonical(part).encode() + b"\n")
    return whole.hexdigest()


class Answers:
    """The answers in `folder` to the requests of `name`; `get` and `add` take the number of a unit of work."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.jsonl"
        self._found: dict[int, Any] = {}
        if self.path.exists():
            whole = self.path.read_bytes()
            complete = whole[: whole.rfind(b"\n") + 1]
            if len(complete) < len(whole):
                self.path.write_bytes(complete)
            try:
                self._found = {int(unit): answers for unit, answers in map(_read, complete.splitlines())}
            except (*NO_JSON, TypeError):
                raise InputError(f"the answers kept in {self.path} are damaged; remove the file and run again") from None

    def get(self, unit: int) -> Any | None:
        """The answers of a unit, or None."""
        return self._found.get(unit)

    def add(self, unit: int, answers: Any) -> None:
        """Keep the answers of a unit: they are on disk when this returns."""
        self._found[unit] = answers
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with naming_full_disk(self.path), open(self.path, "ab") as file:
            line = json.dumps([unit, answers]).encode()
            file.write(_sum(line) + b" " + line + b"\n")


def _sum(line: bytes) -> bytes:
    return hashlib.sha256(line).hexdigest()[:16].encode()


def _read(line: bytes) -> Any:
    """A unit and its answers, as they were written; else a ValueError."""
    checked, _, rest = line.partition(b" ")
    if checked != _sum(rest):
        raise ValueError("the line is not the one that was written")
    return json.loads(rest)
