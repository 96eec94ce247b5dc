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
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.contracts import Demonstration, LeftOut, Preference
from harness.errors import InputError, first_line, suggest
from harness.files import DAMAGED_GZIP, DIGITS, NO_JSON, files_of, hash_content, kept_as
from harness.recipe import PromptSource
from harness.training.instructions import find_layout, instructions, preference_layouts, preferences, select

VERSION = 1

KINDS = (".jsonl", ".json", ".csv", ".parquet", ".arrow")
SHARD = re.compile(r"[-_.](?=\d)|\.")
"""What ends the name of a split in the name of a file: the number of a part, or the kind."""


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
    if path.is_file() and spec.split != "train":
        raise InputError(f"{spec.dataset} is one file, whose split is called 'train'; the recipe asks for {spec.split!r}")
    rows = rows_of(path, spec.split, spec.dataset)
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


def rows_of(path: Path, split: str, name: str) -> list[Any]:
    """Every row of a file, or of a split of a folder; messages call it `name`."""
    if _is_saved(path):
        return _saved(path, split, name)
    return [row for file in ([path] if path.is_file() else _files(path, split, name)) for row in read(file)]


def _files(folder: Path, split: str, name: str) -> list[Path]:
    """The split's files, of those that the folder's hash covers. Raises `InputError` where there are none, or those of several splits."""
    known = [file for file in files_of(folder) if kind_of(file) in KINDS]
    chosen = [file for file in known if file.name.startswith((f"{split}-", f"{split}.", f"{split}_"))]
    if not chosen:
        names = ", ".join(str(file.relative_to(folder)) for file in known) or "none"
        raise InputError(f"{name} holds no data file whose name begins with {split!r} (data files: {names})")
    splits = sorted({SHARD.split(file.name)[0] for file in chosen})
    if len(splits) > 1:
        raise InputError(
            f"{name} holds files of several splits that begin with {split!r}: {', '.join(splits)}; name one of them, or a file, or number "
            f"the parts of one split ({split}-1, {split}-2)"
        )
    return chosen


def kind_of(path: Path) -> str:
    """What a file is by its name's end, `.gz` apart."""
    return Path(path.name.removesuffix(".gz")).suffix


def _is_saved(path: Path) -> bool:
    return any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def _saved(path: Path, split: str, name: str) -> list[Any]:
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
        splits = found if isinstance(found, datasets.DatasetDict) else {split: found}
        if split in splits:
            splits[split].data.validate(full=True)
            return list(splits[split].to_list())
    except Exception as error:  # datasets and pyarrow raise what they like at a damaged folder
        raise InputError(f"{name} cannot be read: {first_line(error)}; make it again") from None
    raise InputError(f"{name} has no split {split!r}{suggest(split, splits)}")


def read(path: Path) -> Iterator[Any]:
    """The rows of one file. Raises `InputError` for one that is of no known kind, or damaged."""
    readers = {".jsonl": _json_lines, ".json": _json, ".csv": _csv}
    kind = kind_of(path)
    if kind in (".parquet", ".arrow"):
        yield from _arrow(path)
    elif kind in readers:
        yield from readers[kind](path, _text(path, _unpacked(path)))
    else:
        raise InputError(f"{path.name} is not one of {', '.join(KINDS)}, nor a folder that `save_to_disk` wrote")


def _unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    try:
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except DAMAGED_GZIP as error:
        raise InputError(f"{path.name} cannot be unpacked: {first_line(error)}; pack the file again") from None


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
            except NO_JSON:
                raise InputError(f"{path.name} line {number} is not whole JSON; correct the file") from None


def _json(path: Path, text: str) -> Iterator[Any]:
    """A list of rows, an object that holds one list, or lines, as some files of this name have."""
    try:
        value = json.loads(text)
    except NO_JSON:
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
        raise InputError(f"{path.name} is not readable CSV: {first_line(error)}; correct the file") from None


def _arrow(path: Path) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    try:
        if kind_of(path) == ".parquet":
            table = parquet.read_table(path)
        else:
            with pyarrow.memory_map(str(path)) as file:
                table = _table(pyarrow.ipc, file)
        table.validate(full=True)  # else a damaged offset is read from wherever it leads
        for batch in table.to_batches(max_chunksize=1024):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # ValueError: text that is not UTF-8
        raise InputError(f"{path.name} cannot be read: {first_line(error)}; make it again") from None


def _table(ipc: Any, file: Any) -> Any:
    """Arrow's file format, or the stream that `datasets` writes."""
    import pyarrow

    try:
        return ipc.open_file(file).read_all()
    except pyarrow.ArrowInvalid:
        file.seek(0)
        return ipc.open_stream(file).read_all()
