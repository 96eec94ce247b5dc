"""The files of a run's stages, by their names in its directory (`iter1/train/log.jsonl`): in the stages' directories, or packed.

RUN/records.tar.xz is what is committed of a run's stages, one archive that `harness pack` writes. It is read in memory, nothing is
unpacked, while no stage has a directory here, as in a clone. Where one has, the directories are the run and the archive is a copy.

xz, because records resemble each other (a tenth of their size; gzip keeps two fifths) and because each part of the format has a checksum.
"""

from __future__ import annotations

import io
import lzma
import os
import tarfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, TypeAdapter, ValidationError

from harness.config import InnerPath
from harness.errors import InputError
from harness.files import Output, hash_bytes, hash_file, parse_jsonl, read_jsonl, write_atomic

STAGE_FILE, DONE_FILE, ARCHIVE, UNFINISHED = "stage.json", "done.json", "records.tar.xz", "unfinished.json"
MAX_BYTES, MAX_FILES, MAX_MEMORY = 2**30, 100_000, 2**27
"""An archive that holds more bytes or files than these, or that asks for more memory to be read, is refused."""
UNREADABLE = (tarfile.TarError, lzma.LZMAError, EOFError, OSError, ValueError, OverflowError, RecursionError)
"""What reading a damaged archive raises."""
INNER = TypeAdapter[str](InnerPath)


def _is_no_record(name: str) -> str:
    if name.rpartition("/")[2] in (STAGE_FILE, DONE_FILE):
        raise ValueError("is a record's own name")
    return name


OutputName = Annotated[InnerPath, AfterValidator(_is_no_record)]
"""The name of a stage's output in its directory."""


def read_file(run: Path, name: str) -> bytes | None:
    """The bytes of a plain file of a run; None where there is none."""
    path = run / name
    return path.read_bytes() if path.is_file() else packed(run).get(name)


def size_of(run: Path, name: str) -> int | None:
    """The size in bytes of a file of a run; None where there is none."""
    path = run / name
    if path.exists():
        return path.stat().st_size
    content = packed(run).get(name)
    return None if content is None else len(content)


def hash_of(run: Path, name: str) -> Output | None:
    """Size and sha256 of a file of a run; None where there is none. What is no plain file is an `InputError`."""
    path = run / name
    if path.exists():
        return hash_file(path)
    content = packed(run).get(name)
    return None if content is None else hash_bytes(content)


def read_lines(run: Path, name: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file of a run, as `read_jsonl`; nothing where there is none."""
    path = run / name
    if path.exists():  # what is no plain file is refused
        yield from read_jsonl(path)
    else:
        yield from (line for _, line in parse_jsonl(io.BytesIO(packed(run).get(name, b"")), path))


def stage_paths(run: Path, marker: str = STAGE_FILE) -> list[str]:
    """The stages that hold a file called `marker`."""
    names = {*names_below(run), *packed(run)}
    return sorted(name.removesuffix(f"/{marker}") for name in names if name.endswith(f"/{marker}"))


def output_names(run: Path, stage_path: str) -> set[str]:
    """Names below a stage of its files, without the two that record it and those half written."""
    here = {*names_below(run / stage_path)}
    here |= {name.removeprefix(f"{stage_path}/") for name in packed(run) if name.startswith(f"{stage_path}/")}
    return {name for name in here if Path(name).name not in (STAGE_FILE, DONE_FILE) and not name.endswith(".tmp")}


def names_below(folder: Path) -> Iterator[str]:
    """The names in `folder` of all plain files below it, however deep; folders that are links are not followed."""
    left = [""] if folder.is_dir() else []
    while left:
        inner = left.pop()
        with os.scandir(folder / inner) as entries:
            for entry in entries:
                name = f"{inner}/{entry.name}" if inner else entry.name
                if entry.is_dir(follow_symlinks=False):
                    left.append(name)
                elif entry.is_file(follow_symlinks=False) or (entry.is_symlink() and Path(entry.path).is_file()):
                    yield name


def recordable_names(run: Path, stage_path: str) -> set[str]:
    """As `output_names`. Raises `InputError` where a file has a name that no record could list, before hours of work end there."""
    names = output_names(run, stage_path)
    odd = sorted(name for name in names if not _is_inner(name))
    if odd:
        raise InputError(f"{stage_path} holds a file called {odd[0]!r}, a name that no stage gives; remove it and run again")
    return names


def packed(run: Path) -> Mapping[str, bytes]:
    """{name: bytes} of the archive of a run none of whose stages has a directory here; nothing where one has, or without an archive."""
    archive = run / ARCHIVE
    if not archive.is_file() or any(name.rpartition("/")[2] == STAGE_FILE for name in names_below(run)):
        return {}
    return read_archive(archive)


def read_archive(path: Path) -> Mapping[str, bytes]:
    """{name: bytes} of an archive, read once while the file stays the same. Raises InputError where it is damaged or unsafe."""
    found = path.stat()
    return _read(path, found.st_size, found.st_mtime_ns, found.st_ino)


@lru_cache(maxsize=64)
def _read(path: Path, size: int, *_stamp: int) -> Mapping[str, bytes]:
    try:
        decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_MEMORY)
        content = decoder.decompress(path.read_bytes(), max_length=MAX_BYTES) if size <= MAX_BYTES else b""
        if not decoder.eof or decoder.unused_data:
            raise lzma.LZMAError(f"it is cut, has more than {MAX_BYTES >> 30} GiB, or does not end where its content does")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            return {member.name: _content(tar, member) for member in plain_files(path, tar, MAX_BYTES, MAX_FILES)}
    except UNREADABLE as error:
        raise InputError(f"{path} is damaged ({error or type(error).__name__}); restore it from the commit it came with") from None


def plain_files(path: Path, tar: tarfile.TarFile, max_bytes: int, max_files: int) -> list[tarfile.TarInfo]:
    """All entries of an archive, each read before the data of the next are passed over: a bomb is refused at its first entry too many."""
    names, members, size = set[str](), list[tarfile.TarInfo](), 0
    for member in tar:
        name, size = member.name, size + member.size
        is_plain = _is_inner(name) and name not in names and member.isfile() and not member.issparse()
        if not is_plain or size > max_bytes or len(names) == max_files:
            raise InputError(
                f"{path} is refused: it holds links, devices, a path outside itself, a file twice, or more than "
                f"{max_bytes >> 30} GiB or {max_files} files"
            )
        names.add(name)
        members.append(member)
    return members


def _is_inner(name: str) -> bool:
    try:
        return INNER.validate_python(name) == name
    except ValidationError:
        return False


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def write_archive(path: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` ({name: bytes}) as an archive. Equal files give equal bytes: no time, no owner, files of one kind side by side."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(files, key=_by_kind):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(files[name]), 0o644
            tar.addfile(entry, io.BytesIO(files[name]))
    write_atomic(path, lzma.compress(out.getvalue()))


def _by_kind(name: str) -> tuple[str, str]:
    return name.rpartition("/")[2], name
