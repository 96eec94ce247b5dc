"""The opponent's log-probabilities: fixed within an iteration, so computed once, before step 0, with the policy still untouched.

    opponent_logps.json   {"identity", "logps": {key of the token ids: [real, generated, ...]}}, in nats

A group not scored yet is absent from the file. Groups are scored in the micro-batches that are trained on: what is computed together
changes a bf16 log-probability by a nat (docs/benchmarks.md), so in any other company policy and opponent would differ though their weights
are equal. In bf16, therefore, a value belongs to its group in that micro-batch, and each epoch, whose order is another, has values of its
own; fp32 has one value a group. A killed and continued pass forms the same micro-batches, also on another number of processes where their
size is the same.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from pydantic import ValidationError
from torch import nn

from harness.config import Strict, first_fault
from harness.errors import InputError, TrainingError
from harness.files import digest, plain, write_atomic
from harness.lm.group_logps import Group
from harness.lm.progress import progress
from harness.machine import Machine
from harness.training.stopping import Wish, agree, leave

FILE = "opponent_logps.json"
Logps = tuple[float, ...]
"""Summed log-probabilities of a group's branches in nats: real, then every generated response."""


def keys_of(groups: Sequence[Group], precision: str) -> list[str]:
    """What the values of a micro-batch's groups are known by: the sha256 of each group's token ids and of which are hidden from attention,
    in bf16 together with those of the whole micro-batch."""
    own = [digest(list(group)) for group in groups]
    return [digest([key, own]) for key in own] if precision == "bf16" else own


def score_opponent(
    accelerator: Accelerator,
    scorer: nn.Module,
    encode: Callable[[int], Group],
    rounds: Sequence[Sequence[Sequence[int]]],
    *,
    precision: str,
    out: Path,
    identity: str,
    machine: Machine,
    told_to_stop: Callable[[], bool],
) -> dict[str, Logps]:
    """{key: log-probabilities} of the groups of all `rounds`, under `scorer` as it is now.

    A round has a batch of groups for each process, or fewer; `encode` gives a group. What `out` already holds under the same
    `identity` is kept. Every process returns all of them. Where a process is told to stop, all save and leave. Raises `TrainingError`
    for a value that is not finite.
    """
    known = _read(out / FILE, identity)
    is_new = not known
    last_saved = time.monotonic()
    num_groups = sum(len(batch) for batches in rounds for batch in batches)
    with progress("opponent log-probabilities", num_groups, "prompts") as advance:
        for batches in rounds:
            mine = [encode(index) for index in batches[min(accelerator.process_index, len(batches) - 1)]]
            keys = keys_of(mine, precision)
            if is_new or not all(gather_object([known.keys() >= {*keys}])):  # every process scores equally often
                known.update(gather_object(list(zip(keys, _score(scorer, mine), strict=True))))
            is_stop = agree(accelerator, Wish.STOP if told_to_stop() else Wish.GO_ON) == Wish.STOP
            if accelerator.is_main_process:
                advance(sum(map(len, batches)))
                if is_stop or time.monotonic() - last_saved >= machine.checkpoint_every_seconds:
                    _write(out / FILE, identity, known)
                    last_saved = time.monotonic()
            if is_stop:
                accelerator.wait_for_everyone()
                leave(accelerator, f"{len(known)} of the opponent's log-probabilities are saved")
    if accelerator.is_main_process:
        _write(out / FILE, identity, known)
    accelerator.wait_for_everyone()
    return known


@torch.no_grad()
def _score(scorer: nn.Module, groups: Sequence[Group]) -> list[Logps]:
    scores = [tuple(row) for row in scorer(groups).tolist()]
    if not all(math.isfinite(value) for row in scores for value in row):
        raise TrainingError("the opponent gives a log-probability that is not finite; check the weights of the policy input")
    return scores


def has_scores(out: Path, identity: str) -> bool:
    """Whether an earlier launch with the same inputs has scored something."""
    return bool(_read(out / FILE, identity))


class _Saved(Strict):
    """What the file holds."""

    identity: str
    logps: dict[str, Logps]


def _read(path: Path, identity: str) -> dict[str, Logps]:
    if not path.exists():
        return {}
    try:
        saved = _Saved.model_validate_json(plain(path).read_bytes())
    except ValidationError as error:
        raise InputError(f"{path.name} is damaged ({first_fault(error)}); remove it and run again") from None
    if len({len(row) for row in saved.logps.values()}) > 1:
        raise InputError(f"{path.name} is damaged (its groups have different numbers of branches); remove it and run again")
    return saved.logps if saved.identity == identity else {}


def _write(path: Path, identity: str, logps: dict[str, Logps]) -> None:
    write_atomic(path, json.dumps({"identity": identity, "logps": logps}, sort_keys=True, indent=0).encode())
