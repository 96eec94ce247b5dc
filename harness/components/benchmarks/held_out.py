"""What a policy makes of prompts nobody trained on: how likely the real responses are, and whether it tells them from its opponent's.

    held_out_nll_per_token     -log p(real | prompt) over its tokens, in nats a token
    held_out_nll               -log p(real, end | prompt) in nats a response
    held_out_margin            nats by which the policy prefers real to generated more than its opponent does: SPIN's own quantity
    held_out_accuracy          the share, in percent, of prompts with a margin above 0; a margin of 0 is half a prompt
    held_out_margin_like_length, held_out_accuracy_like_length
                               the same over prompts whose two responses have like numbers of tokens: no length shortcut

Forward passes of policy and opponent only. The generated responses are the opponent's, drawn as for training; `sft` is its own opponent,
so its margin is 0 and its accuracy 50. Pairs become token ids as in training. A prompt that a row was trained on here all the same is left
out of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.contracts import Job, Result, Score
from harness.contracts.stage_specs import PairEncoding
from harness.errors import InputError, RecipeError, suggest
from harness.evaluation.statistics import estimate
from harness.lm.group_logps import Group, score_groups
from harness.lm.progress import progress
from harness.recipe import Task
from harness.training.batches import encode
from harness.training.pairs import Pair, read_demonstrations, read_pairs

VERSION = 1
TASK_NAMES = (
    "held_out_nll_per_token", "held_out_nll", "held_out_margin", "held_out_accuracy", "held_out_margin_like_length",
    "held_out_accuracy_like_length",
)  # fmt: skip

LIKE_LENGTH = 0.8
"""Two responses are of like length where the shorter has at least this share of the longer one's tokens."""
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


class Measured(NamedTuple):
    """A prompt's two responses: summed log-probabilities in nats under policy and opponent, and numbers of tokens."""

    prompt_id: str
    policy_real: float
    policy_generated: float
    opponent_real: float
    opponent_generated: float
    real_tokens: int
    generated_tokens: int

    @property
    def margin(self) -> float:
        return (self.policy_real - self.opponent_real) - (self.policy_generated - self.opponent_generated)

    @property
    def is_like_length(self) -> bool:
        short, long = sorted((self.real_tokens, self.generated_tokens))
        return short >= LIKE_LENGTH * long > 0


def _nll_per_token(one: Measured) -> float | None:
    return -one.policy_real / one.real_tokens if one.real_tokens else None


def _nll(one: Measured) -> float:
    return -one.policy_real


def _margin(one: Measured) -> float:
    return one.margin


def _accuracy(one: Measured) -> float:
    return 50.0 if one.margin == 0 else 100.0 * (one.margin > 0)


LIKE = "_like_length"
METRICS = {"nll_per_token": "nats a token", "nll": "nats", "margin": "nats", "accuracy": "percent"}
VALUES: dict[str, Callable[[Measured], float | None]] = {
    "nll_per_token": _nll_per_token, "nll": _nll, "margin": _margin, "accuracy": _accuracy,
}  # fmt: skip
TASKS = {f"held_out_{name}": name for name in (*METRICS, f"margin{LIKE}", f"accuracy{LIKE}")}
"""Task -> what is measured."""


def open_benchmark(job: Job) -> Callable[[Task], Result]:
    """What measures a task on the job's checkpoint; the passes over all pairs are made once, for the first task."""
    for task in job.benchmark.tasks:
        _check(task)
    measured = cache(lambda: _measure(job))

    def score(task: Task) -> Result:
        name = TASKS[task.name]
        chosen = [one for one in measured() if one.is_like_length or not name.endswith(LIKE)]
        found = {one.prompt_id: _finite(VALUES[name.removesuffix(LIKE)](one)) for one in chosen}
        samples = [{"id": one.prompt_id, **one._asdict(), "value": found[one.prompt_id]} for one in chosen]
        return Result(_summary(job, task, found), samples)

    return score


def _check(task: Task) -> None:
    if task.name not in TASKS:
        raise RecipeError(f"no task called {task.name!r}{suggest(task.name, TASKS)}")
    metric = METRICS[TASKS[task.name].removesuffix(LIKE)]
    if task.metric != metric:
        raise RecipeError(f"{task.name} is measured in {metric!r}, found metric {task.metric!r}")
    if task.limit is not None:
        raise RecipeError(f"{task.name} has limit {task.limit}; the number of prompts is that of the recipe's `held_out`")


def _measure(job: Job) -> list[Measured]:
    pairs = _unseen_pairs(job.inputs)
    groups = _groups(job, pairs)
    opponent_checkpoint = job.inputs["opponent"] / "checkpoint"
    policy = list(_logps(job, job.checkpoint, groups))
    opponent = policy if opponent_checkpoint == job.checkpoint else list(_logps(job, opponent_checkpoint, groups))
    return [
        Measured(pair.prompt_id, *ours, *theirs, *_lengths(group))
        for pair, group, ours, theirs in zip(pairs, groups, policy, opponent, strict=True)
    ]


def _lengths(group: Group) -> tuple[int, int]:
    real, generated = group.branches
    return len(real), len(generated)


def _unseen_pairs(inputs: Mapping[str, Path]) -> list[Pair]:
    trained = {row.prompt_id for row in read_demonstrations(inputs["trained"] / "prompts.jsonl")} if "trained" in inputs else set()
    pairs = read_pairs({"prompts": inputs["prompts"], "responses0": inputs["generated"]})
    unseen = [pair for pair in pairs if pair.prompt_id not in trained]
    if not unseen:
        raise InputError(f"all {len(pairs)} held-out prompts are among those trained on; name another split in the recipe's `held_out`")
    return unseen


def _groups(job: Job, pairs: Sequence[Pair]) -> list[Group]:
    tokenizer = AutoTokenizer.from_pretrained(job.checkpoint, local_files_only=True)
    return [encode(tokenizer, (pair,), _encoding(job)) for pair in pairs]


def _encoding(job: Job) -> PairEncoding:
    assert job.encoding is not None, "the plan gives every held_out stage an encoding"
    return job.encoding


@torch.no_grad()
def _logps(job: Job, checkpoint: Path, groups: Sequence[Group]) -> Iterator[tuple[float, float]]:
    """(real, generated) of each group in nats, in their order."""
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=getattr(torch, DTYPES[job.precision]), local_files_only=True)
    model = model.to(job.machine.device).eval()
    size = job.machine.evaluate_batch
    with progress("score", len(groups), "pairs") as advance:
        for start in range(0, len(groups), size):
            some = groups[start : start + size]
            yield from ((real.logp, generated.logp) for real, generated in score_groups(model, some))
            advance(len(some))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _summary(job: Job, task: Task, values: Mapping[str, float | None]) -> Score:
    found = estimate(values)
    return Score(
        benchmark=job.benchmark.name,
        task=task.name,
        metric=task.metric,
        value=found.value,
        stderr=found.stderr,
        n=len(values),
        n_unscored=found.n_unscored,
        protocol={"rules": job.benchmark.protocol, "dtype": job.precision, **_encoding(job).model_dump()},
        values=dict(values),
    )
