"""Whether an objective keeps its contract: one loss a pair, with a gradient. Tried on four pairs before a run spends anything."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.config import mistake
from harness.contracts import PairLogps, branches, has_opponent, load
from harness.errors import RecipeError
from harness.training.global_batch import Objective

PAIRS = 4


def checked(objective: str, parameters: Mapping[str, float]) -> Objective:
    """The objective's loss with its parameters, whose every answer is looked at; `RecipeError` for one that is no loss a pair."""
    loss = partial(load("objectives", objective).loss, **parameters)

    def call(logps: PairLogps, beta: float) -> Tensor:
        losses: Tensor = loss(logps, beta)
        if fault := _fault(losses, logps):
            raise RecipeError(f"objective {objective}: loss {fault}")
        return losses

    return call


def _fault(losses: Any, logps: PairLogps) -> str | None:
    expected = tuple(logps.policy_real.shape)
    if not isinstance(losses, Tensor):
        return f"returned a {type(losses).__name__}, expected a tensor of shape {expected}, one value a pair"
    if tuple(losses.shape) != expected:
        return f"returned shape {tuple(losses.shape)}, expected {expected}, one value a pair"
    if logps.policy_real.requires_grad and not losses.requires_grad:
        return "does not follow from the policy's log-probabilities: it has no gradient, and nothing would be learned"
    return None


def try_once(objective: str, parameters: Mapping[str, float], beta: float) -> None:
    """Ask the objective for the losses of made-up pairs. `RecipeError` with the line where it raises, or for what it returns."""
    loss = checked(objective, parameters)
    try:
        loss(_pairs(objective), beta)
    except RecipeError:
        raise
    except Exception as error:  # whatever a user's file raises is the user's mistake
        raise mistake(Path(str(load("objectives", objective).__file__)), error) from None


def _pairs(objective: str) -> PairLogps:
    """Pairs with the responses that the objective scores, some better than their opponent's and some worse."""
    scored = branches(objective)
    policy = -torch.arange(1.0, 1.0 + 3 * PAIRS).reshape(3, PAIRS).requires_grad_()
    tokens = torch.arange(2, 2 + PAIRS)
    opponent = [-torch.linspace(2.0, 9.0, PAIRS) if has_opponent(objective) else None for _ in range(2)]
    return PairLogps(
        policy_real=policy[0],
        policy_generated=policy[1] if "generated" in scored else None,
        opponent_real=opponent[0],
        opponent_generated=opponent[1] if "generated" in scored else None,
        real_tokens=tokens,
        mean_real_tokens=tokens.float().mean(),
        policy_proto=policy[2] if "proto" in scored else None,
        generated_tokens=tokens + 1 if "generated" in scored else None,
    )
