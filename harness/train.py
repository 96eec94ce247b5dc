"""Stage `train`: the policy of the input, trained on pairs, as an accelerate loop.

    opponent_logps.json   the opponent's log-probabilities, computed once before step 0 (objectives that read them)
    log.jsonl             a line an optimizer step
    state/step-N          everything a killed run continues from; gone at the end
    checkpoint/           the trained policy, fp32 safetensors, with the tokenizer of the input

One process or several (torchrun, accelerate launch): each takes its share of every global batch. A run that was killed and started
again, with the same number of processes, ends in the same weights as an undisturbed one.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, get_scheduler
from transformers.modeling_layers import GradientCheckpointingLayer

from harness.artifact import DONE_FILE, Record, digest, read_model
from harness.components import load
from harness.data import Encoding, Pair, encode_pair, read_pairs
from harness.errors import InputError, MachineError, RecipeError, TrainingError
from harness.global_batch import Objective, check_finite, check_start, gather, pair_logps, rewards
from harness.logps import Group, GroupScorer
from harness.machine import Machine
from harness.opponent import Logps, score_opponent
from harness.plan import TrainSpec
from harness.progress import progress
from harness.train_state import load_state, remove_state, save_checkpoint, save_state

SCHEDULES = {"linear": "linear", "constant": "constant_with_warmup", "cosine": "cosine"}


class Schedule(NamedTuple):
    """Counts: optimizer steps of an epoch, of the learning-rate schedule, and of this run; pairs of one forward pass."""

    steps_per_epoch: int
    scheduled_steps: int
    num_steps: int
    micro_batch: int


class Training(NamedTuple):
    """What a step needs."""

    settings: TrainSpec
    schedule: Schedule
    accelerator: Accelerator
    objective: ModuleType
    loss: Objective
    tokenizer: Any
    pairs: Sequence[Pair]
    scorer: nn.Module
    optimizer: Any
    scheduler: Any


def run(spec: dict[str, Any], inputs: Mapping[str, Path], out: Path, machine: Machine) -> None:
    """Train `inputs["policy"]` on `inputs["prompts"]` and the responses of every `inputs["responsesI"]`; continue a killed run."""
    settings = TrainSpec.model_validate(spec)
    if machine.num_threads is not None:
        torch.set_num_threads(machine.num_threads)
    training = _open(settings, inputs, machine)
    identity = digest({role: read_model(Record, path / DONE_FILE).content for role, path in inputs.items()})
    if not (out / "checkpoint").exists():
        opponent = _opponent(training, out, identity, machine)
        _train(training, opponent, out, identity, machine)
        save_checkpoint(training.accelerator, training.scorer, inputs["policy"] / "checkpoint", out)
    remove_state(training.accelerator, out)


def plan_steps(settings: TrainSpec, num_pairs: int, num_processes: int, machine: Machine) -> Schedule:
    """The counts of a run; the last partial batch of an epoch is dropped. Errors where the batch cannot be had or divided."""
    batch = settings.global_batch_size
    if batch % num_processes:
        raise MachineError(
            f"the recipe's global batch of {batch} pairs cannot be divided among {num_processes} processes of machine "
            f"{machine.name!r}; use a number of processes that divides {batch}"
        )
    if num_pairs < batch:
        raise RecipeError(f"{num_pairs} pairs do not fill one global batch of {batch}; give more prompts or lower global_batch_size")
    if settings.grouping != "pairs":
        raise RecipeError(f"grouping {settings.grouping!r} cannot be trained yet; use 'pairs'")
    if settings.max_prompt_length >= settings.max_length:
        raise RecipeError(
            f"max_prompt_length {settings.max_prompt_length} leaves no token of max_length {settings.max_length} to a response; lower it"
        )
    share = batch // num_processes
    per_epoch = num_pairs // batch
    return Schedule(
        steps_per_epoch=per_epoch,
        scheduled_steps=settings.num_steps or settings.schedule_epochs * per_epoch,
        num_steps=settings.num_steps or settings.stop_after_epochs * per_epoch,
        micro_batch=max(size for size in range(1, min(share, machine.micro_batch) + 1) if share % size == 0),
    )


def _open(settings: TrainSpec, inputs: Mapping[str, Path], machine: Machine) -> Training:
    accelerator = Accelerator(
        cpu=machine.device == "cpu",
        mixed_precision="bf16" if settings.precision == "bf16" else "no",
        step_scheduler_with_optimizer=False,
    )
    pairs = read_pairs(inputs)
    objective = load("objectives", settings.objective)
    absent = [branch for branch in objective.BRANCHES if getattr(pairs[0], branch) is None]
    if absent:
        raise InputError(f"objective {settings.objective!r} needs {' and '.join(absent)} responses, but none are among the inputs")
    schedule = plan_steps(settings, len(pairs), accelerator.num_processes, machine)
    share = settings.global_batch_size // accelerator.num_processes
    accelerator.gradient_accumulation_steps = share // schedule.micro_batch
    checkpoint = inputs["policy"] / "checkpoint"
    model = _load_model(checkpoint, machine)
    optimizer = _optimizer(settings, model)
    scheduler = get_scheduler(
        SCHEDULES[settings.optimizer.schedule],
        optimizer,
        num_warmup_steps=math.ceil(settings.optimizer.warmup_ratio * schedule.scheduled_steps),
        num_training_steps=schedule.scheduled_steps,
    )
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    prepared = accelerator.prepare(GroupScorer(model), optimizer, scheduler)
    loss = partial(objective.loss, **settings.parameters)
    return Training(settings, schedule, accelerator, objective, loss, tokenizer, pairs, *prepared)


def _load_model(checkpoint: Path, machine: Machine) -> nn.Module:
    """fp32 weights in evaluation mode, which is what turns dropout off; only gradient checkpointing is told that we train."""
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True)
    model.eval()
    if machine.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for layer in model.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.training = True
    return model  # type: ignore[no-any-return]


def _optimizer(settings: TrainSpec, model: nn.Module) -> torch.optim.Optimizer:
    """torch's own defaults beyond learning rate and weight decay (RMSProp: alpha 0.99, no momentum, not centred)."""
    kinds: dict[str, Any] = {"rmsprop": torch.optim.RMSprop, "adamw": torch.optim.AdamW}
    chosen: torch.optim.Optimizer = kinds[settings.optimizer.name](
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.optimizer.weight_decay
    )
    return chosen


def _opponent(training: Training, out: Path, identity: str, machine: Machine) -> dict[str, Logps]:
    if not training.objective.OPPONENT:
        return {}
    by_length = _by_length(training.pairs, range(len(training.pairs)))
    return score_opponent(
        training.accelerator, training.scorer, partial(_group, training), by_length, out=out, identity=identity, machine=machine
    )


def _train(training: Training, opponent: Mapping[str, Logps], out: Path, identity: str, machine: Machine) -> None:
    accelerator, schedule = training.accelerator, training.schedule
    start = load_state(accelerator, out, identity)
    last_saved = time.monotonic()
    with open(out / "log.jsonl", "a", encoding="utf-8") as log, progress("train", schedule.num_steps, "steps") as advance:
        advance(start)
        for step in range(start, schedule.num_steps):
            line = _step(training, opponent, step)
            if accelerator.is_main_process:
                log.write(json.dumps(line) + "\n")
                log.flush()
                advance(1)
            if time.monotonic() - last_saved >= machine.checkpoint_every_seconds:
                accelerator.set_trigger()
            if accelerator.check_trigger():
                save_state(accelerator, out, identity, step + 1)
                last_saved = time.monotonic()


def _step(training: Training, opponent: Mapping[str, Logps], step: int) -> dict[str, Any]:
    """One optimizer step on one global batch; returns its line of the log."""
    began = time.monotonic()
    accelerator, settings = training.accelerator, training.settings
    batch = _batch(training, step)
    mine = [[_group(training, index) for index in indices] for indices in _share(training, batch, accelerator.process_index)]
    num_tokens, mean_real_tokens = _count_tokens(training, mine)
    parts = []
    for groups in mine:
        with accelerator.accumulate(training.scorer):
            logps = pair_logps(training.scorer(groups), groups, opponent, mean_real_tokens)
            accelerator.backward(training.loss(logps, settings.beta).mean())
        parts.append(logps)
    whole = gather(accelerator, parts)
    losses = training.loss(whole, settings.beta)
    check_finite(losses, _prompt_ids(training, batch))
    if step == 0:
        check_start(training.loss, whole, settings.beta, settings.precision)
    max_norm = settings.optimizer.max_grad_norm
    grad_norm = float(accelerator.clip_grad_norm_(training.scorer.parameters(), math.inf if max_norm is None else max_norm))
    if not math.isfinite(grad_norm):
        raise TrainingError(f"the gradient norm is {grad_norm} at step {step}; lower the learning rate or check the batch's responses")
    learning_rate = training.scheduler.get_last_lr()[0]
    training.optimizer.step()
    training.scheduler.step()
    training.optimizer.zero_grad()
    seconds = time.monotonic() - began
    return {
        "step": step,
        "epoch": step // training.schedule.steps_per_epoch,
        "loss": float(losses.mean()),
        **rewards(whole, settings.beta),
        "grad_norm": grad_norm,
        "learning_rate": learning_rate,
        "tokens": num_tokens,
        "tokens_per_second": round(num_tokens / seconds, 1),
        "seconds": round(seconds, 3),
    }


def _batch(training: Training, step: int) -> list[int]:
    """The pairs of the step's global batch, longest first: the epoch's order comes from the seed and the epoch alone."""
    epoch, place = divmod(step, training.schedule.steps_per_epoch)
    order = list(range(len(training.pairs)))
    random.Random(f"{training.settings.seed} {epoch}").shuffle(order)
    size = training.settings.global_batch_size
    return _by_length(training.pairs, order[place * size : (place + 1) * size])


def _by_length(pairs: Sequence[Pair], indices: Iterable[int]) -> list[int]:
    """Longest first, so that a batch holds little padding; by characters, which need no tokenizer."""

    def length(index: int) -> int:
        pair = pairs[index]
        return sum(len(message["content"]) for message in pair.prompt) + len(pair.real) + len(pair.generated or "")

    return sorted(indices, key=lambda index: (-length(index), index))


def _share(training: Training, batch: Sequence[int], rank: int) -> list[Sequence[int]]:
    """The micro-batches of one process, dealt in turn so that all work on pairs of like length at a time."""
    size = training.schedule.micro_batch
    micro_batches = [batch[start : start + size] for start in range(0, len(batch), size)]
    return micro_batches[rank :: training.accelerator.num_processes]


def _prompt_ids(training: Training, batch: Sequence[int]) -> list[str]:
    """Those of the batch in the order in which the processes' shares are gathered."""
    shares = (_share(training, batch, rank) for rank in range(training.accelerator.num_processes))
    return [training.pairs[index].prompt_id for share in shares for indices in share for index in indices]


def _group(training: Training, index: int) -> Group:
    settings = training.settings
    encoding = Encoding(settings.template, settings.tokenization, settings.max_length, settings.max_prompt_length)
    prompt, responses = encode_pair(training.tokenizer, training.pairs[index], encoding)
    return Group(prompt.ids, [r.ids for r in responses], prompt.keys, [r.keys for r in responses])


def _count_tokens(training: Training, micro_batches: Sequence[Sequence[Group]]) -> tuple[int, Tensor]:
    """Of the global batch: all tokens (a shared prompt once, no padding), and the mean (,) number of real response tokens."""
    groups = [group for some in micro_batches for group in some]
    counts = [sum(len(g.prompt) + sum(map(len, g.branches)) for g in groups), sum(len(g.branches[0]) for g in groups)]
    total: Any = training.accelerator.reduce(torch.tensor(counts, device=training.accelerator.device), "sum")
    return int(total[0]), total[1] / training.settings.global_batch_size
