"""Pairs as other tools store them: parquet with one of two layouts, in the splits train and test.

    ucla   real, generated             each a list of messages, prompt included (the UCLA-AGI/SPIN_iterT sets)
    trl    prompt, chosen, rejected    lists of messages, the prompt apart (TRL's preference sets)

Both carry prompt_id and finish_reason as further columns, without which a pair cannot be read back whole; files of others lack them.
Read are these layouts, and preference files whose prompt is part of `chosen` or whose columns are plain strings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from harness.components.sources import local
from harness.contracts import LeftOut
from harness.errors import InputError, first_line
from harness.files import hash_content
from harness.training.instructions import REPEATED, left_out, message, prompt_id, text_of, turns_of
from harness.training.pairs import Pair

Layout = Literal["ucla", "trl"]
Messages = list[dict[str, str]]

# as in the released sets: 500 test rows beside 49.8k
TEST_SHARE = 0.01
EXPECTED = "columns real and generated (messages), or prompt, chosen and rejected (messages or text)"
KNOWN = ("prompt_id", "finish_reason")
"""The columns of text."""


def columns(layout: Layout) -> tuple[str, ...]:
    """The columns of a layout, in order."""
    return ("prompt_id", *(("real", "generated") if layout == "ucla" else ("prompt", "chosen", "rejected")), "finish_reason")


def write(pairs: Sequence[Pair], layout: Layout, folder: Path) -> dict[str, int]:
    """`folder/data/SPLIT-00000-of-00001.parquet`; the last hundredth of the pairs, at least one, is `test`. Return rows by split."""
    import datasets

    num_test = max(1, round(len(pairs) * TEST_SHARE)) if len(pairs) > 1 else 0
    splits = {"train": pairs[: len(pairs) - num_test], "test": pairs[len(pairs) - num_test :]}
    message = [{"role": datasets.Value("string"), "content": datasets.Value("string")}]
    text = datasets.Value("string")
    features = datasets.Features({name: text if name in KNOWN else message for name in columns(layout)})
    for split, chosen in splits.items():
        rows = [_row(pair, layout) for pair in chosen]
        by_column = {name: [row[name] for row in rows] for name in features}
        datasets.Dataset.from_dict(by_column, features=features).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return {split: len(chosen) for split, chosen in splits.items()}


def read(source: str, split: str) -> tuple[list[Pair], list[LeftOut]]:
    """The pairs of `split` ('train', 'train+test') of a file, a directory, or a Hub set `OWNER/NAME@REVISION`, in their order.

    The first of several pairs with one prompt is kept, as in prompt sources, the others are returned as left out. A `finish_reason` the
    file does not tell is None.
    """
    pairs: dict[str, Pair] = {}
    repeated: list[LeftOut] = []
    for number, row in enumerate(_rows(source, split), 1):
        try:
            pair = _pair(row)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"{source} [{split}] row {number} is not a pair ({reason}); expected {EXPECTED}") from None
        if pairs.setdefault(pair.prompt_id, pair) is not pair:
            repeated.append(left_out(REPEATED, row))
    if not pairs:
        raise InputError(f"{source} [{split}] holds no pair; check the split")
    return list(pairs.values()), repeated


def hash_source(source: str) -> str:
    """The sha256 of a file, or of all that a directory holds; of a Hub set its revision."""
    path = Path(source).expanduser()
    return hash_content(path) if path.exists() else source.rpartition("@")[2]


def _rows(source: str, split: str) -> Iterator[Any]:
    """The rows of each part of `split`; what is here is read by the reader of `local` sources, which a damaged file cannot end."""
    path = Path(source).expanduser()
    name, _, revision = source.rpartition("@")
    if path.is_file():
        yield from local.rows_of(path, split, source)
    elif path.exists():
        for part in split.split("+"):
            yield from local.rows_of(path, part, source)
    elif name and len(revision) == 40:
        yield from _hub_rows(name, revision, split)
    else:
        raise InputError(f"{source} is no file or directory here; name a Hub set as OWNER/NAME@REVISION with its 40-hex commit")


def _hub_rows(name: str, revision: str, split: str) -> Iterator[Any]:
    import datasets

    try:
        yield from datasets.load_dataset(name, revision=revision, split=split)
    except Exception as error:  # datasets, pyarrow and the Hub's client raise what they like
        raise InputError(f"{name} [{split}] cannot be read: {first_line(error)}") from None


def _row(pair: Pair, layout: Layout) -> dict[str, Any]:
    prompt, real, generated = list(pair.prompt), _answer(pair.real), _answer(str(pair.generated))
    known = {"prompt_id": pair.prompt_id, "finish_reason": pair.finish_reason}
    if layout == "ucla":
        return {**known, "real": prompt + real, "generated": prompt + generated}
    return {**known, "prompt": prompt, "chosen": real, "rejected": generated}


def _answer(text: str) -> Messages:
    return [{"role": "assistant", "content": text}]


def _pair(row: Any) -> Pair:
    if not isinstance(row, Mapping):
        raise ValueError("it is no object")
    if "real" in row:
        (prompt, real), (other, generated) = _divide(row["real"]), _divide(row["generated"])
    elif row.get("prompt"):
        prompt = _messages(row["prompt"])
        (head, real), (tail, generated) = _divide(row["chosen"]), _divide(row["rejected"])
        other = prompt if head in ([], prompt) and tail in ([], prompt) else []
    else:
        (prompt, real), (other, generated) = _divide(row["chosen"]), _divide(row["rejected"])
    if other != prompt or not prompt:
        raise ValueError("its two responses do not answer one prompt")
    if row.get("finish_reason") not in (None, "stop", "length"):
        raise ValueError(f"finish_reason is {str(row['finish_reason'])[:40]!r}, expected 'stop' or 'length'")
    identity = row.get("prompt_id") or prompt_id(prompt)
    if not isinstance(identity, str):
        raise ValueError(f"prompt_id is {str(identity)[:40]!r}, expected text")
    return Pair(identity, prompt, real, generated, row.get("finish_reason"))


def _divide(value: Any) -> tuple[Messages, str]:
    """The messages before the last one, and the text of the last one; plain text is a response alone."""
    if value is None or isinstance(value, str):
        return [], text_of(value)
    *prompt, last = _messages(value)
    if last["role"] != "assistant":
        raise ValueError(f"its last message is by {last['role']!r}, not the assistant")
    return prompt, last["content"]


def _messages(value: Any) -> Messages:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    return [message(turn) for turn in turns_of(value)]
