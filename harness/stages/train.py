"""Stage `train`: the policy of the input, trained on pairs, as an accelerate loop.

    audit.json            what the tokenization made of the pairs, looked at before anything is trained (harness/training/token_audit.py)
    opponent_logps.json   the opponent's log-probabilities, computed once before step 0 (objectives that read them)
    log.jsonl             a line an optimizer step; docs/metrics.md says what each value means
    state/step-N          everything a killed run continues from; gone at the end
    checkpoint/           the trained policy, fp32 safetensors, with the tokenizer of the input
    weights.json          the share of its weights that differ in bf16 from the input's

One process or several (harness/training/launch.py): each takes its share of every global batch. A run that was killed and started
again, with the same number of processes, ends in the same weights as an undisturbed one. SIGTERM lets it finish its step and save.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from transformers import AutoTokenizer

from harness.artifact import DONE_FILE, Record
from harness.contracts import PairLogps, load
from harness.contracts.stage_specs import TrainSpec
from harness.errors import HarnessError, InputError, TrainingError
from harness.files import digest, naming_full_disk, read_model
from harness.lm.group_logps import Group, GroupScorer
from harness.lm.progress import progress
from harness.machine import Machine
from harness.training.batches import Batches, plan_steps, share_prompts
from harness.training.checkpoints import has_state, load_state, refuse_damaged, remove_state, save_checkpoint, save_state
from harness.training.global_batch import Objective, check_finite, check_start, gather, not_finite, pair_logps, rewards
from harness.training.opponent import Logps, has_scores, keys_of, score_opponent
from harness.training.own_objectives import checked
from harness.training.pairs import Pair, read_pairs
from harness.training.policy import load_policy, make_optimizer, make_scheduler, open_accelerator
from harness.training.step_costs import ModelSizes, measure, naming_micro_batch, peak_memory_gb, step_flops
from harness.training.stopping import Wish, agree, leave, noticing_sigterm
from harness.training.token_audit import EXAMPLE_FILE, audit
from harness.training.token_audit import FILE as AUDIT_FILE

TRL_NAMES = {
    "rewards/chosen": "rewards/real",
    "rewards/rejected": "rewards/generated",
    "rewards/accuracies": "rewards/accuracy",
    "rewards/margins": "rewards/margin",
    "logps/chosen": "logps/real",
    "logps/rejected": "logps/generated",
}
"""{what TRL's DPOTrainer calls a quantity: what it is called here}."""


class Training(NamedTuple):
    """What a step needs."""

    settings: TrainSpec
    machine: Machine
    accelerator: Accelerator
    objective: ModuleType
    loss: Objective
    batches: Batches
    sizes: ModelSizes
    scorer: nn.Module
    optimizer: Any
    scheduler: Any


def run(spec: dict[str, Any], inputs: Mapping[str, Path], out: Path, machine: Machine) -> None:
    """Train `inputs["policy"]` on `inputs["prompts"]` and the responses of every `inputs["responsesI"]`; continue a killed run."""
    settings = TrainSpec.model_validate(spec)
    if machine.num_threads is not None:
        torch.set_num_threads(machine.num_threads)
    training = _open(settings, inputs, out, machine)
    identity = digest({role: read_model(Record, path / DONE_FILE).content for role, path in inputs.items()})
    source = inputs["policy"] / "checkpoint"
    if (out / "checkpoint").exists():
        refuse_damaged(out, source)
    else:
        _audit(training, out, identity)
        with noticing_sigterm() as told_to_stop:
            with naming_micro_batch(machine):
                opponent = _opponent(training, out, identity, told_to_stop)
                _train(training, opponent, out, identity, told_to_stop)
            save_checkpoint(training.accelerator, training.scorer, source, out, lora=settings.lora, precision=settings.precision)
    remove_state(training.accelerator, out)
    training.accelerator.end_training()


def _open(settings: TrainSpec, inputs: Mapping[str, Path], out: Path, machine: Machine) -> Training:
    accelerator = open_accelerator(settings, machine, out)
    pairs = read_pairs(inputs)
    _check_branches(settings.objective, pairs[0])
    checkpoint = inputs["policy"] / "checkpoint"
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    return assemble(settings, machine, accelerator, pairs, tokenizer, lambda: load_policy(checkpoint, settings, machine))


def assemble(
    settings: TrainSpec, machine: Machine, accelerator: Accelerator, pairs: Sequence[Pair], tokenizer: Any, policy: Callable[[], nn.Module]
) -> Training:
    """What trains `policy` on `pairs`; that is loaded once the steps are known to come out even."""
    objective = load("objectives", settings.objective)
    shared = share_prompts(pairs, settings.grouping)
    schedule = plan_steps(settings, len(pairs), len(shared[0]), accelerator.num_processes, machine)
    accelerator.gradient_accumulation_steps = schedule.batch // accelerator.num_processes // schedule.micro_batch
    batches = Batches(settings, schedule, accelerator.num_processes, tokenizer, shared)
    model = policy()
    sizes = measure(model)
    optimizer = make_optimizer(settings, model)
    prepared = accelerator.prepare(GroupScorer(model), optimizer, make_scheduler(settings, schedule, optimizer))
    loss = checked(settings.objective, settings.parameters)
    return Training(settings, machine, accelerator, objective, loss, batches, sizes, *prepared)


def _check_branches(name: str, pair: Pair) -> None:
    absent = [branch for branch in load("objectives", name).BRANCHES if getattr(pair, branch) is None]
    if absent:
        raise InputError(f"objective {name!r} needs {' and '.join(absent)} responses, but none are among the inputs")


def _audit(training: Training, out: Path, identity: str) -> None:
    """The first process looks and writes; all stop where a check fails. Work that began after an audit of the same inputs passed it."""
    failure: HarnessError | None = None
    is_written = all((out / name).exists() for name in (AUDIT_FILE, EXAMPLE_FILE))
    has_passed = is_written and (has_state(out, identity) or has_scores(out, identity))
    if training.accelerator.is_main_process and not has_passed:
        try:
            print(audit(training.batches.tokenizer, training.batches.shared, training.settings, out), file=sys.stderr, flush=True)
        except HarnessError as error:
            failure = error
    (failure,) = broadcast_object_list([failure])
    if failure:
        raise failure


def _opponent(training: Training, out: Path, identity: str, told_to_stop: Callable[[], bool]) -> dict[str, Logps]:
    """Adapters add nothing before step 0, so with them, too, the policy as it stands is the opponent."""
    if not training.objective.OPPONENT:
        return {}
    batches = training.batches
    return score_opponent(
        training.accelerator,
        training.scorer,
        batches.encode,
        [*batches.rounds()],
        precision=training.settings.precision,
        out=out,
        identity=identity,
        machine=training.machine,
        told_to_stop=told_to_stop,
    )


def _train(training: Training, opponent: Mapping[str, Logps], out: Path, identity: str, told_to_stop: Callable[[], bool]) -> None:
    accelerator, machine, num_steps = training.accelerator, training.machine, training.batches.schedule.num_steps
    start = load_state(accelerator, out, identity)
    last_saved = time.monotonic()
    with open(out / "log.jsonl", "a", encoding="utf-8") as log, progress("train", num_steps, "steps") as advance:
        advance(start)
        for step in range(start, num_steps):
            line = _step(training, opponent, step)
            accelerator.log(tracked(line), step=step)
            if accelerator.is_main_process:
                with naming_full_disk(out / "log.jsonl"):
                    log.write(json.dumps(line) + "\n")
                    log.flush()
                advance(1)
            is_due = time.monotonic() - last_saved >= machine.checkpoint_every_seconds
            wish = agree(accelerator, Wish.STOP if told_to_stop() else Wish.SAVE if is_due else Wish.GO_ON)
            if wish >= Wish.SAVE:
                save_state(accelerator, out, identity, step + 1)
                last_saved = time.monotonic()
            if wish == Wish.STOP:
                leave(accelerator, f"the state after step {step} is saved")


def tracked(line: Mapping[str, Any]) -> dict[str, Any]:
    """What trackers get of a step's line: what there is, and under TRL's names as well what TRL's dashboards show."""
    known = {name: value for name, value in line.items() if value is not None}
    return {**known, **{theirs: known[ours] for theirs, ours in TRL_NAMES.items() if ours in known}}


def _step(training: Training, opponent: Mapping[str, Logps], step: int) -> dict[str, Any]:
    """One optimizer step on one global batch; returns its line of the log."""
    began = time.monotonic()
    accelerator, settings, batches = training.accelerator, training.settings, training.batches
    batch = batches.of_step(step)
    mine = [[batches.encode(index) for index in indices] for indices in batches.of_process(batch, accelerator.process_index)]
    counts = _count(training, mine)
    learning_rate = training.scheduler.get_last_lr()[0]
    whole = gather(accelerator, _backward(training, mine, opponent, counts))
    losses = training.loss(whole, settings.beta)
    check_finite(losses, batches.prompt_ids(batch))
    if step == 0:
        check_start(training.loss, whole, settings.beta, settings.precision)
    max_norm = settings.optimizer.max_grad_norm
    grad_norm = float(accelerator.clip_grad_norm_(training.scorer.parameters(), math.inf if max_norm is None else max_norm))
    if not math.isfinite(grad_norm):
        training.optimizer.zero_grad()
        _backward(training, mine, opponent, counts)  # once more: clipping by such a norm leaves no gradient as it was
        raise TrainingError(
            f"the gradient norm is {grad_norm} at step {step}; {not_finite(training.scorer)}; the step was not taken: look at that layer, "
            f"at the loss, or at the batch's responses, prompts {', '.join(batches.prompt_ids(batch)[:5])}"
        )
    training.optimizer.step()
    training.scheduler.step()
    training.optimizer.zero_grad()
    return {
        "step": step,
        "epoch": step // batches.schedule.steps_per_epoch,
        "loss": float(losses.mean()),
        **rewards(whole, settings.beta),
        "grad_norm": grad_norm,
        "learning_rate": learning_rate,
        **_costs(training, counts, time.monotonic() - began),
    }


def _backward(training: Training, mine: Sequence[Sequence[Group]], opponent: Mapping[str, Logps], counts: Counts) -> list[PairLogps]:
    """Gradients of this process's share of a global batch, a micro-batch at a time; returns what the loss was made of."""
    shared = training.batches.shared[0]
    num_generated = len(shared) if shared[0].generated is not None else 0
    parts = []
    for groups in mine:
        with training.accelerator.accumulate(training.scorer):
            fixed = [opponent[key] for key in keys_of(groups, training.settings.precision)] if opponent else []
            logps = pair_logps(training.scorer(groups), groups, fixed, counts.mean_real_tokens, num_generated)
            training.accelerator.backward(training.loss(logps, training.settings.beta).mean())
        parts.append(logps)
    return parts


class Counts(NamedTuple):
    """Of a global batch: tokens (a shared prompt once, no padding), their means by side, FLOPs; `mean_real_tokens` is a tensor ()."""

    tokens: int
    mean_prompt: float
    mean_real: float
    mean_generated: float | None
    flops: float
    mean_real_tokens: Tensor


def _count(training: Training, micro_batches: Sequence[Sequence[Group]]) -> Counts:
    groups = [group for micro_batch in micro_batches for group in micro_batch]
    own = [
        sum(len(g.prompt) for g in groups),
        sum(len(g.branches[0]) for g in groups),
        sum(len(branch) for g in groups for branch in g.branches[1:]),
        step_flops(training.sizes, groups, adapters=training.settings.lora is not None),
    ]
    total: Any = training.accelerator.reduce(torch.tensor(own, dtype=torch.float64, device=training.accelerator.device), "sum")
    prompt, real, generated, flops = total.tolist()
    num, branches = training.batches.schedule.batch, len(groups[0].branches) - 1
    return Counts(
        tokens=int(prompt + real + generated),
        mean_prompt=prompt / num,
        mean_real=real / num,
        mean_generated=generated / num / branches if branches else None,
        flops=flops,
        mean_real_tokens=(total[1] / num).float(),
    )


def _costs(training: Training, counts: Counts, seconds: float) -> dict[str, Any]:
    """Useful tokens, the share of the devices' peak they reached, and this process's peak memory so far."""
    machine = training.machine
    peak = machine.peak_tflops * 1e12 * training.accelerator.num_processes
    return {
        "lengths/prompt": round(counts.mean_prompt, 2),
        "lengths/real": round(counts.mean_real, 2),
        "lengths/generated": None if counts.mean_generated is None else round(counts.mean_generated, 2),
        "tokens": counts.tokens,
        "tokens_per_second": round(counts.tokens / seconds, 1),
        "mfu": round(counts.flops / seconds / peak, 4),
        "peak_memory_gb": round(peak_memory_gb(machine), 3),
        "seconds": round(seconds, 3),
    }
