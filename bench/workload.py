"""What every peer trains on: the same pairs as token ids, in the same batches, from the directories a training stage reads."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from transformers import AutoTokenizer

from harness.artifact import DONE_FILE, Record
from harness.contracts import Demonstration
from harness.contracts.stage_specs import TrainSpec
from harness.files import dump
from harness.lm.group_logps import Group
from harness.machine import Machine
from harness.recipe import Optimizer
from harness.training.batches import Batches, plan_steps, share_prompts
from harness.training.pairs import read_pairs, write_demonstrations

DATASET = "trl-lib/ultrafeedback_binarized"
BETA, LEARNING_RATE, SEED = 0.1, 1e-6, 0


class Size(NamedTuple):
    """Of a measurement: prompts, pairs of a global batch, tokens of prompt and response together, epochs, threads."""

    num_prompts: int
    batch: int
    max_length: int
    epochs: int
    threads: int
    micro_batch: int


def write_inputs(model: Path, size: Size, folder: Path) -> dict[str, Path]:
    """Stage directories with `model` and `size.num_prompts` rows: chosen is real, rejected stands for the opponent's response.

    The set has no third response to a prompt, so the carried-over one is the rejected response of the next row: right in length.
    """
    rows = datasets.load_dataset(DATASET, split="train").shuffle(seed=42).select(range(size.num_prompts))
    inputs = {role: folder / role for role in ("policy", "prompts", "responses0", "responses1")}
    for path in inputs.values():
        path.mkdir(parents=True, exist_ok=True)
    if not (inputs["policy"] / "checkpoint").exists():
        (inputs["policy"] / "checkpoint").symlink_to(model.resolve())
    made = [_row(row) for row in rows]
    write_demonstrations(inputs["prompts"] / "prompts.jsonl", [row for row, _ in made])
    for t, role in enumerate(("responses1", "responses0")):
        texts = [made[(i + t) % len(made)][1] for i in range(len(made))]
        answers = [
            {"prompt_id": row.prompt_id, "response": text, "finish_reason": "stop"} for (row, _), text in zip(made, texts, strict=True)
        ]
        (inputs[role] / "responses").mkdir(exist_ok=True)
        (inputs[role] / "responses" / "00000.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    for role, path in inputs.items():
        (path / DONE_FILE).write_bytes(dump(Record(fingerprint=role, outputs={}, content=role, seconds=0.0, peak_memory_mb=0.0)))
    return inputs


def _row(row: dict[str, Any]) -> tuple[Demonstration, str]:
    question, answer = row["chosen"][:2]
    prompt_id = hashlib.sha256(question["content"].encode()).hexdigest()
    return Demonstration(prompt_id, [{"role": "user", "content": question["content"]}], answer["content"]), row["rejected"][1]["content"]


def settings(size: Size, grouping: str, num_iterations: int) -> TrainSpec:
    """The recipe of a measurement; the audit's checks are all accepted, since nothing is concluded from the loss."""
    return TrainSpec(
        objective="spin",
        parameters={},
        grouping=grouping,
        beta=BETA,
        learning_rate=LEARNING_RATE,
        optimizer=Optimizer(name="rmsprop", warmup_ratio=0.0, schedule="linear", max_grad_norm=1.0),
        schedule_epochs=size.epochs,
        stop_after_epochs=size.epochs,
        num_steps=None,
        global_batch_size=size.batch * num_iterations if grouping == "groups" else size.batch,
        template="chat",
        tokenization="modern",
        max_length=size.max_length,
        max_prompt_length=size.max_length // 2,
        accepted_checks=("identical_pairs", "cut_prompts", "cut_real", "length_shortcut", "empty_generated"),
        lora=None,
        precision="fp32",
        seed=SEED,
    )


def machine(size: Size) -> Machine:
    """The box this runs on; `peak_tflops` is not used here: the peak is measured."""
    return Machine(
        name="bench",
        summary="bench",
        num_threads=size.threads,
        micro_batch=size.micro_batch,
        checkpoint_every_seconds=1e9,
        peak_tflops=1.0,
        generate_tokens_per_second=1.0,
        memory_gb=1.0,
    )


def roles(inputs: dict[str, Path], num_iterations: int) -> dict[str, Path]:
    """The inputs of iteration 0 (new responses), or of a later one (with the carried-over ones)."""
    return {role: path for role, path in inputs.items() if num_iterations == 2 or role != "responses0"}


def batches(inputs: dict[str, Path], size: Size, grouping: str, num_iterations: int) -> Batches:
    """The trainer's own batches, which the other peers take over."""
    spec = settings(size, grouping, num_iterations)
    pairs = read_pairs(roles(inputs, num_iterations))
    shared = share_prompts(pairs, grouping)
    schedule = plan_steps(spec, len(pairs), len(shared[0]), 1, machine(size))
    tokenizer = AutoTokenizer.from_pretrained(inputs["policy"] / "checkpoint", local_files_only=True)
    return Batches(spec, schedule, 1, tokenizer, shared)


def pairs_of_epoch(inputs: dict[str, Path], size: Size, num_iterations: int) -> list[list[Group]]:
    """The pairs of the first epoch, a list a step, each a group of real and generated; the other peers repeat this epoch."""
    made = batches(inputs, size, "pairs", num_iterations)
    return [[made.encode(index) for index in made.of_step(step)] for step in range(made.schedule.steps_per_epoch)]
