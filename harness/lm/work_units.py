"""Work on a list of requests, cut into units, and what answers them: a model in this process, or replicas of a model or an engine.

A unit's answers are the same wherever it is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from harness.contracts import Request, load
from harness.lm.replicas import Replica, Replicas, Shard
from harness.machine import Machine

SHARD_REQUESTS = 32
"""What a replica is handed at a time: units of as many requests together, next to one another in the prefix tree."""

T = TypeVar("T")


class Unit(NamedTuple):
    """A piece of work: the numbers of the requests it answers, and how a model answers them: {request: answer}. It can be pickled."""

    requests: tuple[int, ...]
    answer: Callable[[Any], dict[int, Any]]

    @property
    def size(self) -> int:
        return len(self.requests)

    def answered_by(self, model: Any) -> list[Any]:
        """[request, answer] for every request."""
        return [[i, one] for i, one in self.answer(model).items()]


def replica_of(model: Any) -> Replica:
    """What a replica that holds `model` does with numbered units."""
    return lambda items: [{"unit": number, "answers": unit.answered_by(model)} for number, unit in items]


def answers_of(replicas: Replicas, units: Sequence[Unit], numbers: Sequence[int]) -> Iterator[tuple[int, list[Any]]]:
    """(number, answers) of the units so numbered, as they come."""
    parts = runs(numbers, lambda part: sum(units[n].size for n in part) <= SHARD_REQUESTS)
    shards = [Shard(first, [(n, units[n]) for n in part]) for first, part in enumerate(parts)]
    for shard in replicas.answer(shards):
        for line in shard.lines:
            yield line["unit"], line["answers"]


def runs(items: Iterable[T], fit: Callable[[list[T]], bool]) -> Iterator[list[T]]:
    """Runs of consecutive items, each as long as they `fit` together; an item that does not fit is alone."""
    run: list[T] = []
    for item in items:
        if run and not fit([*run, item]):
            yield run
            run = []
        run.append(item)
    if run:
        yield run


def engine_units(requests: Sequence[Request], size: int) -> list[Unit]:
    """`size` requests a unit, for an engine; a request's answer are its token ids, its number its place here."""
    places = [range(start, min(start + size, len(requests))) for start in range(0, len(requests), size)]
    return [Unit((*some,), partial(_said_by_engine, requests={i: requests[i] for i in some})) for some in places]


def open_engine_replica(engine: str, checkpoint: Path, dtype: str, machine: Machine) -> Replica:
    """In a replica: open the engine with the checkpoint; the function returned answers numbered units."""
    return replica_of(load("engines", engine).open_engine(checkpoint, dtype, machine))


def _said_by_engine(engine: Any, requests: dict[int, Request]) -> dict[int, Any]:
    return {i: response.token_ids for i, response in zip(requests, engine.generate([*requests.values()]), strict=True)}
