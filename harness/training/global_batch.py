"""The log-probabilities of a global batch: put together from micro-batches and processes, checked, and summed up for the log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from harness.contracts import PairLogps
from harness.errors import TrainingError
from harness.lm.group_logps import Group
from harness.training.opponent import FILE, Logps

Objective = Callable[[PairLogps, float], Tensor]

STEP_0_TOLERANCE = {"fp32": 0.02, "bf16": 1.0}
"""How far margins may be from 0 before the first step, as the root of their mean square in nats: what float noise may come to."""


def pair_logps(
    scored: Tensor, groups: Sequence[Group], opponent: Sequence[Logps], mean_real_tokens: Tensor, num_generated: int
) -> PairLogps:
    """The pairs (B,) of `scored` (num_groups, num_branches): real, `num_generated` generated responses, then perhaps `proto`.

    A group holds `num_generated` pairs (at least 1), which follow one another: the value of its real response stands in each of them.
    `opponent` has the opponent's values of the groups, to stand beside the policy's, or nothing.
    """
    lengths = torch.tensor([[len(branch) for branch in group.branches] for group in groups], device=scored.device)
    real, generated, proto = _by_pair(scored, num_generated)
    real_tokens, generated_tokens, _ = _by_pair(lengths, num_generated)
    assert real is not None
    assert real_tokens is not None
    fixed_real, fixed_generated = None, None
    if opponent:
        fixed = torch.tensor(opponent, device=scored.device)
        fixed_real, fixed_generated, _ = _by_pair(fixed, num_generated)
    return PairLogps(real, generated, fixed_real, fixed_generated, real_tokens, mean_real_tokens, proto, generated_tokens)


def _by_pair(values: Tensor, num_generated: int) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """(num_groups, num_branches) -> real, generated and proto (B,)."""
    pairs = max(num_generated, 1)
    real = values[:, 0].repeat_interleave(pairs)
    generated = values[:, 1 : 1 + num_generated].reshape(-1) if num_generated else None
    proto = values[:, -1].repeat_interleave(pairs) if values.shape[1] > 1 + num_generated else None
    return real, generated, proto


def gather(accelerator: Accelerator, parts: Sequence[PairLogps]) -> PairLogps:
    """The whole global batch without gradient, process after process."""

    def whole(field: str) -> Any:
        values = [getattr(part, field) for part in parts]
        return None if values[0] is None else accelerator.gather(torch.cat(values).detach())

    per_pair = [field for field in PairLogps._fields if field != "mean_real_tokens"]
    return PairLogps(**{field: whole(field) for field in per_pair}, mean_real_tokens=parts[0].mean_real_tokens)


def check_finite(losses: Tensor, prompt_ids: Sequence[str]) -> None:
    """Raise `TrainingError` naming the prompts whose loss is not finite."""
    bad = [prompt_id for prompt_id, finite in zip(prompt_ids, losses.isfinite().tolist(), strict=True) if not finite]
    if bad:
        raise TrainingError(
            f"the loss is not finite for {len(bad)} of {len(prompt_ids)} pairs of the batch, prompts {', '.join(bad[:5])}; the step was "
            "not taken: look at these pairs, or lower the learning rate or beta"
        )


def not_finite(model: nn.Module) -> str:
    """Where gradients that are not finite begin on the way back from the loss, of the weights or parts of weights that this process has.

    The way back is taken to be the reverse of the order in which the model names its weights.
    """
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    own = {name: gradient.to_local() if isinstance(gradient, DTensor) else gradient for name, gradient in gradients.items()}
    bad = [name for name, gradient in own.items() if not gradient.isfinite().all()]
    if not bad:
        return "no weight's own gradient here is infinite or undefined"
    return f"on the way back {bad[-1]} is the first weight whose gradient is not finite, of {len(bad)} of {len(own)}"


def check_start(objective: Objective, whole: PairLogps, beta: float, precision: str) -> None:
    """Before the first step policy and opponent are equal, so the margin must be 0 and the loss the objective's there (ln 2 for SPIN).

    The margin is what is judged: how fast the loss moves with it is the objective's own affair (1 / beta for IPO).
    """
    if whole.opponent_real is None:
        return
    if float(whole.margin.square().mean().sqrt()) > STEP_0_TOLERANCE[precision]:
        equal = whole._replace(opponent_real=whole.policy_real, opponent_generated=whole.policy_generated)
        found, expected = (float(objective(logps, beta).mean()) for logps in (whole, equal))
        raise TrainingError(
            f"the loss before the first step is {found:.4f}, expected {expected:.4f} since policy and opponent are still the same model; "
            f"remove {FILE} and run again"
        )


def rewards(whole: PairLogps, beta: float) -> dict[str, float | None]:
    """What is logged of a step, as means over the global batch; None where there is no such response."""
    if whole.policy_generated is None or whole.opponent_real is None or whole.opponent_generated is None:
        absent = ("margin", "rewards/real", "rewards/generated", "rewards/accuracy", "rewards/margin", "logps/generated")
        logps = {"logps/real": whole.policy_real, "logps/generated": whole.policy_generated}
        return {**dict.fromkeys(absent), **{name: float(value.mean()) for name, value in logps.items() if value is not None}}
    real, generated = whole.policy_real - whole.opponent_real, whole.policy_generated - whole.opponent_generated
    values = {
        "margin": real - generated,
        "rewards/real": beta * real,
        "rewards/generated": beta * generated,
        "rewards/accuracy": (real > generated).float(),
        "rewards/margin": beta * (real - generated),
        "logps/real": whole.policy_real,
        "logps/generated": whole.policy_generated,
    }
    return {name: float(value.mean()) for name, value in values.items()}
