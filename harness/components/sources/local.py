"""A file or folder of the user's own: JSON lines, JSON, CSV (also as .gz), parquet, Arrow, or a `save_to_disk` folder.

A folder of such files gives those whose names begin with the split ('train-00000-of-00002.parquet'). The content must have the sha256
that the recipe pins. Layouts are those of harness/training/instructions.py; system turns stay. Rows are shuffled with `shuffle_seed` as
the source `hub` shuffles. A blank line is no row, and a line that is not JSON an error, since such a file is damaged.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.contracts import Demonstration, LeftOut, Preference
from harness.errors import InputError, first_line, suggest
from harness.files import DIGITS, hash_content, kept_as
from harness.recipe import PromptSource
from harness.training.instructions import find_layout, instructions, preference_layouts, preferences, select

VERSION = 1

KINDS = (".jsonl", ".json", ".csv", ".parquet", ".arrow")


def load(spec: PromptSource) -> Iterable[Demonstration | LeftOut]:
    """The rows `prompt_ids` names, in that order; else the first `num_prompts` after a shuffle with `shuffle_seed`."""
    rows = _rows(spec)
    layout = find_layout(_columns(rows), spec)
    return select(instructions(_in_order(rows, spec), layout, spec.response), spec)


def load_preferences(spec: PromptSource) -> Iterable[Preference | LeftOut]:
    """As `load`, with the columns `chosen` and `rejected`; a row whose two responses do not answer one prompt is left out."""
    rows = _rows(spec)
    better, worse = preference_layouts(_columns(rows), spec)
    return select(preferences(_in_order(rows, spec), better, worse, spec.response), spec)


def _rows(spec: PromptSource) -> list[Any]:
    """Every row of the split, after a look at the content."""
    path = _path(spec)
    found = hash_content(path)
    if found != spec.revision:
        raise InputError(f"{spec.dataset} has the sha256 {found}, the recipe pins {spec.revision}; put it back, or pin what it is now")
    rows = [row for file in _files(path, spec) for row in read(file)] if not _is_saved(path) else _saved(path, spec)
    if not rows:
        raise InputError(f"{spec.dataset} [{spec.split}] holds no row; check the file")
    return rows


def _path(spec: PromptSource) -> Path:
    """Where the file is: linked from the run's directory, or where a recipe that is not yet run names it."""
    linked = kept_as(f"{Path(spec.dataset).name}@{str(spec.revision)[:DIGITS]}")
    path = next(linked, Path(spec.dataset))
    if not path.exists():
        raise InputError(f"{spec.dataset} is not where it was when the run began; run `harness reproduce` with the recipe's own file again")
    return path


def _columns(rows: Iterable[Any]) -> list[str]:
    """The names that any row has, in the order in which they come up."""
    return [*dict.fromkeys(name for row in rows if isinstance(row, Mapping) for name in row)]


def _in_order(rows: list[Any], spec: PromptSource) -> Iterator[Any]:
    order = range(len(rows)) if spec.prompt_ids else np.random.default_rng(spec.shuffle_seed).permutation(len(rows))
    return (rows[i] for i in order)


def _files(path: Path, spec: PromptSource) -> list[Path]:
    if path.is_file():
        if spec.split != "train":
            raise InputError(f"{spec.dataset} is one file, whose split is called 'train'; the recipe asks for {spec.split!r}")
        return [path]
    known = sorted(file for file in path.rglob("*") if kind_of(file) in KINDS)
    chosen = [file for file in known if file.name.startswith((f"{spec.split}-", f"{spec.split}.", f"{spec.split}_"))]
    if not chosen:
        names = ", ".join(str(file.relative_to(path)) for file in known) or "none"
        raise InputError(f"{spec.dataset} holds no data file whose name begins with {spec.split!r} (data files: {names})")
    return chosen


def kind_of(path: Path) -> str:
    """What a file is by its name's end, `.gz` apart."""
    return Path(path.name.removesuffix(".gz")).suffix


def _is_saved(path: Path) -> bool:
    return any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def _saved(path: Path, spec: PromptSource) -> list[Any]:
    import datasets

    found = datasets.load_from_disk(str(path))
    if isinstance(found, datasets.DatasetDict):
        if spec.split not in found:
            raise InputError(f"{spec.dataset} has no split {spec.split!r}{suggest(spec.split, found)}")
        found = found[spec.split]
    return list(found.to_list())


def read(path: Path) -> Iterator[Any]:
    """The rows of one file. Raises `InputError` for one that is of no known kind, or damaged."""
    readers = {".jsonl": _json_lines, ".json": _json, ".csv": _csv}
    kind = kind_of(path)
    if kind in (".parquet", ".arrow"):
        yield from _arrow(path)
    elif kind in readers:
        data = path.read_bytes()
        yield from readers[kind](path, _text(path, gzip.decompress(data) if path.suffix == ".gz" else data))
    else:
        raise InputError(f"{path.name} is not one of {', '.join(KINDS)}, nor a folder that `save_to_disk` wrote")


def _text(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{path.name} line {line} is not UTF-8; convert the file") from None


def _json_lines(path: Path, text: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError:
                raise InputError(f"{path.name} line {number} is not whole JSON; correct the file and pin it again") from None


def _json(path: Path, text: str) -> Iterator[Any]:
    """A list of rows, an object that holds one list, or lines, as some files of this name have."""
    try:
        value = json.loads(text)
    except ValueError:
        yield from _json_lines(path, text)
        return
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)]
        value = lists[0] if len(lists) == 1 and not ({"messages", "conversations"} & set(value)) else [value]
    yield from value if isinstance(value, list) else [value]


def _csv(path: Path, text: str) -> Iterator[Any]:
    csv.field_size_limit(sys.maxsize)
    try:
        for row in csv.DictReader(io.StringIO(text, newline=""), strict=True):
            yield {name: value for name, value in row.items() if name is not None}
    except csv.Error as error:
        raise InputError(f"{path.name} is not readable CSV: {first_line(error)}; correct the file and pin it again") from None


def _arrow(path: Path) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    try:
        if kind_of(path) == ".parquet":
            table = parquet.read_table(path)
        else:
            with pyarrow.memory_map(str(path)) as file:
                table = _table(pyarrow.ipc, file)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{path.name} cannot be read: {first_line(error)}; make it again") from None
    for batch in table.to_batches(max_chunksize=1024):
        yield from batch.to_pylist()


def _table(ipc: Any, file: Any) -> Any:
    """Arrow's file format, or the stream that `datasets` writes."""
    import pyarrow

    try:
        return ipc.open_file(file).read_all()
    except pyarrow.ArrowInvalid:
        file.seek(0)
        return ipc.open_stream(file).read_all()
