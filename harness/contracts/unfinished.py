"""What the processes of a stage have written in its directory: bytes that changed since are noticed by the next launch, not built upon.

    written-HOST-PID.tmp   [name, sha256] a line, on disk before the file has that name

A finished stage has a record; until then there are these notes, which the stage's end removes. Whatever `write_atomic` writes is noted;
weights, and files that grow by lines, are covered where they are written.
"""

from __future__ import annotations

import json
import os
import socket
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from harness.errors import InputError
from harness.files import TOLD, hash_bytes

NOTES = "written-*.tmp"


@contextmanager
def noting(stage: Path) -> Iterator[None]:
    """Note what this process writes in the directory `stage`, once what lies there is known to be what was written."""
    _refuse_changed(stage)
    tell = partial(_note, stage)
    TOLD.append(tell)
    try:
        yield
    finally:
        TOLD.remove(tell)
    for path in stage.glob(NOTES):
        path.unlink(missing_ok=True)


def _note(stage: Path, path: Path, data: bytes) -> None:
    """`path` is about to become a file of these bytes."""
    if path.is_relative_to(stage):
        line = json.dumps([str(path.relative_to(stage)), hash_bytes(data).sha256])
        with open(stage / NOTES.replace("*", f"{socket.gethostname()}-{os.getpid()}"), "ab") as file:
            file.write(f"\n{line}\n".encode())  # what a full disk cut before it stays a line of its own
            file.flush()
            os.fsync(file.fileno())


def _refuse_changed(stage: Path) -> None:
    noted = _noted(stage)
    for name in sorted(noted):
        path = stage / name
        if not path.is_file() or (sha256 := hash_bytes(path.read_bytes()).sha256) in noted[name]:
            continue
        if sha256 not in _noted(stage)[name]:  # read again: another process of the stage may have written meanwhile
            raise InputError(f"{path} is not what was written there (damaged, or edited); remove it and run again")


def _noted(stage: Path) -> dict[str, set[str]]:
    """{name: every sha256 it was to have}."""
    found = defaultdict[str, set[str]](set)
    for path in stage.glob(NOTES):
        for line in path.read_bytes().splitlines():
            try:
                name, sha256 = json.loads(line)
                found[str(name)].add(sha256)
            except (ValueError, TypeError):
                continue  # cut by a kill, before the file had its name
    return found
