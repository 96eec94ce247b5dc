"""Which pairs a step trains on: groups of pairs that share a prompt, global batches of them, and each process's share.

Everything follows from the recipe's seed and the step alone, so a continued run forms the batches of an undisturbed one, and the
number of processes only divides them.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from harness.contracts.stage_specs import PairEncoding, TrainSpec
from harness.errors import MachineError, RecipeError
from harness.lm.group_logps import Group
from harness.machine import Machine
from harness.training.pairs import Encoding, Pair, encode_pairs

Shared = tuple[Pair, ...]
"""Pairs that share prompt and real response and are scored as one group; one pair alone under grouping 'pairs'."""


class Schedule(NamedTuple):
    """Counts: optimizer steps of an epoch, of the learning-rate schedule, and of this run; groups of one forward pass, and of a step."""

    steps_per_epoch: int
    scheduled_steps: int
    num_steps: int
    micro_batch: int
    batch: int


def share_prompts(pairs: Sequence[Pair], grouping: str) -> list[Shared]:
    """`pairs` as they are trained on: each alone ('pairs'), or all of a prompt together, the newest generated response first ('groups')."""
    if grouping == "pairs":
        return [(pair,) for pair in pairs]
    by_prompt: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_prompt[pair.prompt_id].insert(0, pair)
    return [tuple(group) for group in by_prompt.values()]


def plan_steps(settings: TrainSpec, num_pairs: int, pairs_per_group: int, num_processes: int, machine: Machine) -> Schedule:
    """The counts of a run; the last partial batch of an epoch is dropped. Errors where no batch is full or cannot be divided."""
    batch = settings.global_batch_size
    if num_pairs < batch:
        raise RecipeError(f"{num_pairs} pairs do not fill one global batch of {batch}; give more prompts or lower global_batch_size")
    if batch % pairs_per_group:
        raise RecipeError(
            f"grouping 'groups' trains the {pairs_per_group} pairs of a prompt together, which a global batch of {batch} pairs does not "
            f"divide into; use a multiple of {pairs_per_group}, or grouping 'pairs'"
        )
    groups = batch // pairs_per_group
    if groups % num_processes:
        raise MachineError(
            f"the recipe's global batch of {batch} pairs cannot be divided among {num_processes} processes of machine "
            f"{machine.name!r}; use a number of processes that divides {groups}"
        )
    if settings.max_prompt_length >= settings.max_length:
        raise RecipeError(
            f"max_prompt_length {settings.max_prompt_length} leaves no token of max_length {settings.max_length} to a response; lower it"
        )
    share = groups // num_processes
    fitting = max(machine.micro_batch // pairs_per_group, 1)
    per_epoch = num_pairs // batch
    return Schedule(
        steps_per_epoch=per_epoch,
        scheduled_steps=settings.num_steps or settings.schedule_epochs * per_epoch,
        num_steps=settings.num_steps or settings.stop_after_epochs * per_epoch,
        micro_batch=max(size for size in range(1, min(share, fitting) + 1) if share % size == 0),
        batch=groups,
    )


class Batches(NamedTuple):
    """The groups of a run, by index, and how they are dealt out."""

    settings: TrainSpec
    schedule: Schedule
    num_processes: int
    tokenizer: Any
    shared: Sequence[Shared]

    def of_step(self, step: int) -> list[int]:
        """The groups of the step's global batch, longest first: the epoch's order comes from the seed and the epoch alone."""
        epoch, step_in_epoch = divmod(step, self.schedule.steps_per_epoch)
        order = _order_of_epoch(self.settings.seed, epoch, len(self.shared))
        size = self.schedule.batch
        return self.by_length(order[step_in_epoch * size : (step_in_epoch + 1) * size])

    def by_length(self, indices: Iterable[int]) -> list[int]:
        """Longest first, so that processes work on groups of like length; by characters, which need no tokenizer."""
        return sorted(indices, key=lambda index: (-_length(self.shared[index]), index))

    def of_process(self, batch: Sequence[int], rank: int) -> list[Sequence[int]]:
        """The micro-batches of one process, dealt in turn so that all work on groups of like length at a time."""
        return self._micro_batches(batch)[rank :: self.num_processes]

    def rounds(self) -> Iterator[list[Sequence[int]]]:
        """What the opponent scores, as lists of a micro-batch for each process, the last may have fewer: in bf16 those of all steps; else
        every group once, in those of the first epoch's steps, then what these leave out."""
        if self.settings.precision == "bf16":
            batches = [self.of_step(step) for step in range(self.schedule.num_steps)]
        else:
            steps = [self.of_step(step) for step in range(min(self.schedule.num_steps, self.schedule.steps_per_epoch))]
            batches = [*steps, self.by_length(set(range(len(self.shared))).difference(*steps))]
        micro_batches = [one for batch in batches for one in self._micro_batches(batch)]
        for start in range(0, len(micro_batches), self.num_processes):
            yield micro_batches[start : start + self.num_processes]

    def _micro_batches(self, batch: Sequence[int]) -> list[Sequence[int]]:
        size = self.schedule.micro_batch
        return [batch[start : start + size] for start in range(0, len(batch), size)]

    def prompt_ids(self, batch: Sequence[int]) -> list[str]:
        """Those of the batch's pairs in the order in which the processes' shares are gathered."""
        shares = (self.of_process(batch, rank) for rank in range(self.num_processes))
        return [pair.prompt_id for share in shares for indices in share for index in indices for pair in self.shared[index]]

    def encode(self, index: int) -> Group:
        """The token ids of a group: prompt, real, the generated responses, and `proto` where there is one."""
        return encode(self.tokenizer, self.shared[index], self.settings)

    def groups(self) -> Iterator[Group]:
        """All of them, in the order of the pairs."""
        return (self.encode(index) for index in range(len(self.shared)))


@lru_cache(maxsize=1)
def _order_of_epoch(seed: int, epoch: int, num_groups: int) -> tuple[int, ...]:
    order = list(range(num_groups))
    random.Random(f"{seed} {epoch}").shuffle(order)
    return tuple(order)


def encode(tokenizer: Any, shared: Shared, settings: TrainSpec | PairEncoding) -> Group:
    """The token ids of pairs that share a prompt, under the recipe's template, tokenization and lengths."""
    encoding = Encoding(settings.template, settings.tokenization, settings.max_length, settings.max_prompt_length, settings.chat)
    prompt, responses = encode_pairs(tokenizer, shared, encoding)
    return Group(prompt.ids, [r.ids for r in responses], prompt.keys, [r.keys for r in responses])


def _length(shared: Shared) -> int:
    first = shared[0]
    texts = [first.real, first.proto or "", *(pair.generated or "" for pair in shared)]
    return sum(len(message["content"]) for message in first.prompt) + sum(map(len, texts))
