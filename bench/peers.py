"""The peers, each in a process of its own: seconds of the opponent's pass and of every step, losses, the first step's gradient.

released        uclaml/SPIN (TRL 0.7.4): both sequences in full, padded to the longest, full fp32 logits, opponent in the loop
trl             TRL's DPOTrainer at its defaults (gradient checkpointing, reference in the loop), but fp32 and the given batch
trl-best        DPOTrainer with precompute_ref_log_probs and without gradient checkpointing
ours            `harness.stages.train.run`, the stage as it is
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.workload import BETA, LEARNING_RATE, Size, machine, pairs_of_epoch, roles, settings
from harness.lm.group_logps import Group

WATCHED = tuple(f"model.{name}.weight" for name in ("layers.0.self_attn.q_proj", "layers.15.mlp.down_proj", "norm", "embed_tokens"))


class Outcome(NamedTuple):
    """What a peer measured; times in seconds, `cpu` summed over threads. `gradient` is that of the watched weights at step 0."""

    opponent: float
    steps: list[float]
    wall: float
    cpu: float
    losses: list[float]
    gradient: Tensor


def _watched(model: torch.nn.Module) -> Tensor:
    weights = dict(model.named_parameters())
    return torch.cat([weights[name].grad.flatten().clone() for name in WATCHED if name in weights])  # type: ignore[union-attr]


def _load(inputs: dict[str, Path]) -> Any:
    return AutoModelForCausalLM.from_pretrained(inputs["policy"] / "checkpoint", dtype=torch.float32)


def released(inputs: dict[str, Path], size: Size, num_iterations: int) -> Outcome:
    """`spin_trainer.py` of the release: `concatenated_forward` of policy and opponent in every step."""
    policy, opponent = _load(inputs), _load(inputs).requires_grad_(False)
    epoch = pairs_of_epoch(inputs, size, num_iterations)
    num_steps = size.epochs * len(epoch)
    optimizer = torch.optim.RMSprop(policy.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / num_steps)
    seconds, losses, gradient = [], [], torch.zeros(0)
    began, cpu = time.perf_counter(), time.process_time()
    for step in range(num_steps):
        start = time.perf_counter()
        groups = epoch[step % len(epoch)]
        with torch.no_grad():
            fixed_real, fixed_generated = _concatenated_forward(opponent, groups)
        real, generated = _concatenated_forward(policy, groups)
        loss = -logsigmoid(BETA * ((real - generated) - (fixed_real - fixed_generated))).mean()
        loss.backward()
        gradient = _watched(policy) if step == 0 else gradient
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    return Outcome(0.0, seconds, time.perf_counter() - began, time.process_time() - cpu, losses, gradient)


def _concatenated_forward(model: Any, groups: list[Group]) -> tuple[Tensor, Tensor]:
    """Real and generated sequences in one padded batch; log_softmax of all logits; prompt and padding masked out of the sum."""
    rows = [(group.prompt, group.branches[branch]) for branch in (0, 1) for group in groups]
    width = max(len(prompt) + len(response) for prompt, response in rows)
    tokens, keys, labels = (torch.full((len(rows), width), value) for value in (0, 0, -100))
    for i, (prompt, response) in enumerate(rows):
        length = len(prompt) + len(response)
        tokens[i, :length] = torch.tensor(prompt + response)
        keys[i, :length] = 1
        labels[i, len(prompt) : length] = torch.tensor(response)
    logits = model(tokens, attention_mask=keys, use_cache=False).logits.to(torch.float32)[:, :-1]
    labels = labels[:, 1:].clone()
    mask = labels != -100
    labels[~mask] = 0
    per_token = torch.gather(logits.log_softmax(-1), dim=2, index=labels.unsqueeze(2)).squeeze(2)
    logps = (per_token * mask).sum(-1)
    return logps[: len(groups)], logps[len(groups) :]


def trl(inputs: dict[str, Path], size: Size, num_iterations: int, *, best: bool) -> Outcome:
    """DPOTrainer on the same token ids in the same order; its own tokenization and shuffling are bypassed."""
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from trl import DPOConfig, DPOTrainer

    rows = [group for groups in pairs_of_epoch(inputs, size, num_iterations) for group in groups]
    data = Dataset.from_list([{"prompt_ids": g.prompt, "chosen_ids": g.branches[0], "rejected_ids": g.branches[1]} for g in rows])
    found: dict[str, Any] = {"steps": [], "losses": []}

    class Measured(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return SequentialSampler(self.train_dataset)

        def training_step(self, model: Any, *args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            loss = super().training_step(model, *args, **kwargs)
            found["losses"].append(loss.item())
            found.setdefault("gradient", _watched(self.accelerator.unwrap_model(model)))
            found["steps"].append(time.perf_counter() - start)
            return loss

    with tempfile.TemporaryDirectory() as out:
        config = DPOConfig(
            output_dir=out,
            beta=BETA,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="linear",
            optim="rmsprop",
            max_grad_norm=1.0,
            per_device_train_batch_size=size.batch,
            num_train_epochs=size.epochs,
            max_length=None,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            logging_strategy="no",
            disable_tqdm=True,
            **({"precompute_ref_log_probs": True, "gradient_checkpointing": False} if best else {}),
        )
        tokenizer = AutoTokenizer.from_pretrained(inputs["policy"] / "checkpoint", local_files_only=True)
        model, reference = _load(inputs), None if best else _load(inputs)
        began, cpu = time.perf_counter(), time.process_time()
        trainer = Measured(model=model, ref_model=reference, args=config, train_dataset=data, processing_class=tokenizer)
        trainer.train()
    wall = time.perf_counter() - began
    return Outcome(wall - sum(found["steps"]), found["steps"], wall, time.process_time() - cpu, found["losses"], found["gradient"])


def ours(inputs: dict[str, Path], size: Size, num_iterations: int, *, grouping: str) -> Outcome:
    """The training stage from its audit to its last step: loading and saving are left out, as for the other peers.

    The first step's gradient is looked at just before it is clipped.
    """
    import accelerate

    import harness.stages.train

    found: dict[str, Any] = {}
    clip, audit, train = accelerate.Accelerator.clip_grad_norm_, harness.stages.train._audit, harness.stages.train._train

    def looking(self: Any, parameters: Any, *args: Any, **kwargs: Any) -> Any:
        if "gradient" not in found:
            found["gradient"] = _watched(self._models[0].model)
        return clip(self, parameters, *args, **kwargs)

    def from_audit(*args: Any) -> None:
        found["began"], found["cpu"] = time.perf_counter(), time.process_time()
        audit(*args)

    def timed(*args: Any) -> None:
        found["training"] = time.perf_counter()
        train(*args)
        found["ended"], found["cpu"] = time.perf_counter(), time.process_time() - found["cpu"]

    accelerate.Accelerator.clip_grad_norm_, harness.stages.train._audit, harness.stages.train._train = looking, from_audit, timed
    with tempfile.TemporaryDirectory() as out:
        spec = settings(size, grouping, num_iterations).model_dump(mode="json")
        harness.stages.train.run(spec, roles(inputs, num_iterations), Path(out), machine(size))
        log = [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]
    assert all(math.isfinite(line["loss"]) for line in log)
    steps, losses = ([line[name] for line in log] for name in ("seconds", "loss"))
    wall = found["ended"] - found["began"]
    return Outcome(found["training"] - found["began"], steps, wall, found["cpu"], losses, found["gradient"])


PEERS: dict[str, Callable[[dict[str, Path], Size], Outcome]] = {
    "released": lambda inputs, size: released(inputs, size, 1),
    "trl": lambda inputs, size: trl(inputs, size, 1, best=False),
    "trl-best": lambda inputs, size: trl(inputs, size, 1, best=True),
    "ours": lambda inputs, size: ours(inputs, size, 1, grouping="pairs"),
    "released-carried": lambda inputs, size: released(inputs, size, 2),
    "ours-carried": lambda inputs, size: ours(inputs, size, 2, grouping="groups"),
}
