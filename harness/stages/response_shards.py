"""Responses on disk: `responses/00000.jsonl` and so on, a file a shard, written whole, and what is counted about them.

Nothing here holds more than one shard of text.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import InputError
from harness.files import read_jsonl, write_jsonl
from harness.machine import Machine

FINISH_REASONS = ("stop", "length")
FIELDS = {"prompt_id": str, "response": str, "finish_reason": str, "num_tokens": int}
Line = dict[str, Any]

SHARE = "HARNESS_SHARE"
"""The environment variable of a process that answers one share of the prompts: 'NUMBER/NUM'."""

# a response repeats itself when fewer than half of its runs of GRAM words are distinct, from MIN_WORDS words on
GRAM, MIN_WORDS, MIN_DISTINCT = 4, 16, 0.5


class Share(NamedTuple):
    """Every `num`-th shard, from `number` on: what one of several processes answers, each without a word from the others."""

    number: int
    num: int

    def holds(self, index: int) -> bool:
        """Whether the shard of that index is in it."""
        return index % self.num == self.number

    def environment(self) -> dict[str, str]:
        """What tells a process of its share."""
        return {SHARE: f"{self.number}/{self.num}"}


def own_share(environment: Mapping[str, str]) -> Share | None:
    """The share of the process with this environment; None: it answers all and counts them."""
    number, _, num = environment.get(SHARE, "").partition("/")
    return Share(int(number), int(num)) if num else None


def shards(num_prompts: int, machine: Machine) -> list[range]:
    """The prompts of each shard, by their places in the order of their lengths, shortest first.

    A shard is whole batches, counted from the longest prompt, so the prompts of a batch do not depend on the shards; there are as many
    shards for each replica, where there are batches enough. Example: 10 prompts in batches of 4, in shards of 8 at most, are 2 + 8 for
    one replica (or two).
    """
    size = min(machine.generate_batch, machine.generate_shard)
    batches = math.ceil(num_prompts / size)
    fitting = math.ceil(batches / (machine.generate_shard // size))
    num = min(math.ceil(fitting / machine.num_replicas) * machine.num_replicas, batches)
    ends = [num_prompts - (batches - i * batches // num) * size for i in range(num + 1)]
    return [range(max(start, 0), end) for start, end in pairwise(ends)]


class Responses:
    """The shards under `folder`, to the prompts of `position`: {prompt_id: its place in the order of answering}."""

    def __init__(self, folder: Path, position: Mapping[str, int]) -> None:
        self.folder = folder
        self.position = position

    def answered(self) -> bytearray:
        """1 at the position of each prompt that a shard answers. A damaged, foreign or repeated line is an `InputError`."""
        flags = bytearray(len(self.position))
        for path in self._paths():
            for line in read_jsonl(path):
                fault = self._fault(line, flags)
                if fault:
                    raise InputError(f"responses/{path.name} {fault}; remove the file and run again")
                flags[self.position[line["prompt_id"]]] = 1
        return flags

    def write(self, index: int, lines: Sequence[Line]) -> None:
        """Write `lines` with those already in the shard, in the order of the prompts."""
        path = self.folder / f"{index:05}.jsonl"
        kept = read_jsonl(path) if path.exists() else ()
        ordered = sorted([*kept, *lines], key=lambda line: self.position[line["prompt_id"]])
        write_jsonl(path, ordered)

    def statistics(self) -> dict[str, Any]:
        """Counts over all responses and over each shard, after a check that each prompt is answered exactly once."""
        num_missing = self.answered().count(0)
        if num_missing:
            raise InputError(f"{num_missing} of {len(self.position)} prompts have no response; run the same command again")
        shards = {path.stem: _count(read_jsonl(path)) for path in self._paths()}
        return {**_shares(sum(shards.values(), Counter())), "shards": {name: _shares(count) for name, count in shards.items()}}

    def _paths(self) -> Iterator[Path]:
        yield from sorted(self.folder.glob("*.jsonl"))

    def _fault(self, line: Any, flags: bytearray) -> str | None:
        if not isinstance(line, dict) or {name: type(value) for name, value in line.items()} != FIELDS:
            return f"holds a line that is not a response (expected {', '.join(FIELDS)})"
        if line["finish_reason"] not in FINISH_REASONS:
            return f"has the finish reason {line['finish_reason']!r} (expected {' or '.join(FINISH_REASONS)})"
        if line["prompt_id"] not in self.position:
            return f"answers {line['prompt_id']!r}, which is not among the prompts"
        if flags[self.position[line["prompt_id"]]]:
            return f"answers {line['prompt_id']!r} a second time"
        return None


def repeats_itself(text: str) -> bool:
    """Whether a response is stuck: most of its runs of four words have occurred in it before."""
    words = text.split()
    if len(words) < MIN_WORDS:
        return False
    grams = [tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)]
    return len(set(grams)) < MIN_DISTINCT * len(grams)


def _count(lines: Iterable[Line]) -> Counter[str]:
    count: Counter[str] = Counter()
    for line in lines:
        count["responses"] += 1
        count["tokens"] += line["num_tokens"]
        count["length"] += line["finish_reason"] == "length"
        count["empty"] += not line["response"].strip()
        count["repeating"] += repeats_itself(line["response"])
    return count


def _shares(count: Counter[str]) -> dict[str, Any]:
    """`share_length` ended at the token limit, the others by EOS."""
    num = count["responses"]
    shares = {f"share_{name}": count[name] / num for name in ("length", "empty", "repeating")}
    return {"num_responses": num, "mean_tokens": count["tokens"] / num, **shares}
