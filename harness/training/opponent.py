"""The opponent's log-probabilities: fixed within an iteration, so computed once, before step 0, with the policy still untouched.

    opponent_logps.json   {"identity", "logps": {key of the token ids: [real, generated, ...]}}, in nats

A group not scored yet is absent from the file. Batches are cut by their tokens before anything is known to be scored, and dealt whole to
the processes: a killed and continued pass, on however many, forms the batches, hence the numbers, of an undisturbed one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from harness.errors import InputError, TrainingError
from harness.files import NO_JSON, digest, write_atomic
from harness.lm.group_logps import Group
from harness.lm.progress import progress
from harness.lm.token_batches import batches
from harness.machine import Machine
from harness.training.stopping import Wish, agree, leave

FILE = "opponent_logps.json"
WINDOW = 1024
"""Groups that are encoded, and cut into batches, at a time."""

Logps = tuple[float, ...]
"""Summed log-probabilities of a group's branches in nats: real, then every generated response."""


def key_of(group: Group) -> str:
    """The sha256 of a group's token ids and of which are hidden from attention."""
    return digest(list(group))


def score_opponent(
    accelerator: Accelerator,
    scorer: nn.Module,
    encode: Callable[[int], Group],
    order: Sequence[int],
    *,
    max_length: int,
    out: Path,
    identity: str,
    machine: Machine,
    told_to_stop: Callable[[], bool],
) -> dict[str, Logps]:
    """{key: log-probabilities} of the groups `order`, under `scorer` as it is now; `encode` gives a group.

    What `out` already holds under the same `identity` is kept. Every process returns all of them. Where a process is told to stop, all save
    and leave. Raises `TrainingError` for a value that is not finite.
    """
    known = _read(out / FILE, identity)
    last_saved = time.monotonic()
    with progress("opponent log-probabilities", len(order), "prompts") as advance:
        for together in _rounds(accelerator, encode, order, machine.opponent_batch * max_length):
            if not all(key in known for batch in together for key in batch):
                mine = together[min(accelerator.process_index, len(together) - 1)]  # every process scores equally often
                known.update(gather_object(list(zip(mine, _score(scorer, [*mine.values()]), strict=True))))
            is_stop = agree(accelerator, Wish.STOP if told_to_stop() else Wish.GO_ON) == Wish.STOP
            if accelerator.is_main_process:
                advance(sum(map(len, together)))
                if is_stop or time.monotonic() - last_saved >= machine.checkpoint_every_seconds:
                    _write(out / FILE, identity, known)
                    last_saved = time.monotonic()
            if is_stop:
                accelerator.wait_for_everyone()
                leave(accelerator, f"the opponent's log-probabilities of {len(known)} prompts are saved")
    if accelerator.is_main_process:
        _write(out / FILE, identity, known)
    accelerator.wait_for_everyone()
    return known


def _rounds(
    accelerator: Accelerator, encode: Callable[[int], Group], order: Sequence[int], most_tokens: int
) -> Iterator[list[dict[str, Group]]]:
    """The groups `order`, by key, in batches: a list has one for each process, the last one may have fewer.

    Each process encodes its share of a window and gets the others', so that all cut it alike.
    """
    num_processes, rank = accelerator.num_processes, accelerator.process_index
    cut: list[dict[str, Group]] = []
    for start in range(0, len(order), WINDOW):
        share = [encode(index) for index in order[start : start + WINDOW][rank::num_processes]]
        groups = {key_of(group): group for group in gather_object(share)}
        longest_first = sorted(groups.items(), key=lambda item: (-_num_tokens(item[1]), item[0]))
        lengths = [_num_tokens(group) for _, group in longest_first]
        cut += [dict(longest_first[run.start : run.stop]) for run in batches(lengths, most_tokens)]
        while len(cut) >= num_processes:
            yield cut[:num_processes]
            del cut[:num_processes]
    if cut:
        yield cut


def _num_tokens(group: Group) -> int:
    return len(group.prompt) + sum(map(len, group.branches))


@torch.no_grad()
def _score(scorer: nn.Module, groups: Sequence[Group]) -> list[Logps]:
    scores = [tuple(row) for row in scorer(groups).tolist()]
    if not all(math.isfinite(value) for row in scores for value in row):
        raise TrainingError("the opponent gives a log-probability that is not finite; check the weights of the policy input")
    return scores


def has_scores(out: Path, identity: str) -> bool:
    """Whether an earlier launch with the same inputs has scored something."""
    return bool(_read(out / FILE, identity))


def _read(path: Path, identity: str) -> dict[str, Logps]:
    if not path.exists():
        return {}
    try:
        saved = json.loads(path.read_bytes())
        return {key: tuple(row) for key, row in saved["logps"].items()} if saved["identity"] == identity else {}
    except (*NO_JSON, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path.name} is damaged ({error}); remove it and run again") from None


def _write(path: Path, identity: str, logps: dict[str, Logps]) -> None:
    write_atomic(path, json.dumps({"identity": identity, "logps": logps}, sort_keys=True, indent=0).encode())
