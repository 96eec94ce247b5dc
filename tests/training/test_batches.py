"""Which pairs a step trains on: the same on any machine, and groups cost no pair."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from harness.contracts.stage_specs import TrainSpec
from harness.errors import MachineError, RecipeError
from harness.plan import steps_of
from harness.recipe import load, replace
from harness.training.batches import Batches, plan_steps, share_prompts
from harness.training.pairs import Pair
from tests.checkpoints import MACHINE
from tests.stages.test_train import spec


def pairs(num_prompts: int, num_iterations: int) -> list[Pair]:
    return [
        Pair(f"p{i}", [{"role": "user", "content": "q" * i}], f"real {i}", f"own {t}", "stop")
        for t in range(num_iterations)
        for i in range(num_prompts)
    ]


def test_groups_hold_every_pair_once_newest_first() -> None:
    """Promise: `groups` gathers the pairs of a prompt, newest response first; `pairs` leaves each alone and in order."""
    found = share_prompts(pairs(3, 2), "groups")
    assert [[(pair.prompt_id, pair.generated) for pair in some] for some in found] == [
        [(f"p{i}", "own 1"), (f"p{i}", "own 0")] for i in range(3)
    ]
    assert share_prompts(pairs(3, 2), "pairs") == [(pair,) for pair in pairs(3, 2)]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_an_epoch_sees_every_group_once_whatever_the_world(num_processes: int) -> None:
    """Promise: a global batch counts pairs; its groups are the same for any number of processes, and an epoch repeats none."""
    settings = TrainSpec.model_validate(spec(grouping="groups", global_batch_size=8))
    shared = share_prompts(pairs(12, 2), "groups")
    schedule = plan_steps(settings, 24, 2, num_processes, MACHINE.model_copy(update={"micro_batch": 4}))
    assert schedule[:3] == (3, 6, 6)
    batches = Batches(settings, schedule, num_processes, None, shared)
    one = Batches(settings, plan_steps(settings, 24, 2, 1, MACHINE), 1, None, shared)
    for step in range(3):
        batch = batches.of_step(step)
        assert batch == one.of_step(step)
        dealt = [index for rank in range(num_processes) for some in batches.of_process(batch, rank) for index in some]
        assert sorted(dealt) == sorted(batch)
        assert Counter(batches.prompt_ids(batch)) == {f"p{index}": 2 for index in batch}
    assert sorted(index for step in range(3) for index in batches.of_step(step)) == list(range(12))
    assert [len(some) for some in batches.of_process(batches.of_step(0), 0)] == [2] * (2 // num_processes)


def test_an_epoch_is_shuffled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: the steps of an epoch cut one order; with 100,000 pairs shuffling costs 30 ms."""
    shuffles: list[int] = []
    shuffle = random.Random.shuffle
    monkeypatch.setattr(random.Random, "shuffle", lambda self, order: shuffles.append(1) or shuffle(self, order))
    settings = TrainSpec.model_validate(spec(global_batch_size=4, seed=4711))
    shared = share_prompts(pairs(12, 1), "pairs")
    batches = Batches(settings, plan_steps(settings, 12, 1, 1, MACHINE), 1, None, shared)
    assert sorted(index for step in range(3) for index in batches.of_step(step)) == list(range(12))
    assert sorted(index for step in range(3, 6) for index in batches.of_step(step)) == list(range(12))
    assert len(shuffles) == 2


def test_steps_are_the_plan_s() -> None:
    """Promise: the trainer takes the number of steps the plan says, under both groupings."""
    tiny = replace(load("tiny"), name="other", global_batch_size=24)
    for t, iteration in enumerate(tiny.iterations):
        k = len(iteration.pairs_from)
        for grouping in ("pairs", "groups"):
            settings = TrainSpec.model_validate(spec(grouping=grouping, global_batch_size=24))
            schedule = plan_steps(settings, k * tiny.prompts.num_prompts, k if grouping == "groups" else 1, 1, MACHINE)
            assert schedule.num_steps == steps_of(tiny, t)


def test_what_groups_cannot_do() -> None:
    """Promise: a global batch that cuts a group, or that processes cannot share, is one clear line."""
    settings = TrainSpec.model_validate(spec(grouping="groups", global_batch_size=6))
    with pytest.raises(MachineError, match="divides 3"):
        plan_steps(settings, 12, 2, 2, MACHINE)
    with pytest.raises(RecipeError, match="use a multiple of 2"):
        plan_steps(settings.model_copy(update={"global_batch_size": 5}), 12, 2, 1, MACHINE)
