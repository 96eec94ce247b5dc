"""Log-probabilities for tests of objectives: by hand, at random, and of all responses of a tabular model at once."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.contracts import PairLogps

ONE = torch.tensor(1.0)


def pair(
    policy: tuple[float, float], opponent: tuple[float, float], proto: float | None = None, tokens: tuple[int, int] = (1, 1)
) -> PairLogps:
    """One pair; gradients flow to the policy's values."""
    real, generated = (torch.tensor([value], requires_grad=True) for value in policy)
    fixed = [torch.tensor([value]) for value in opponent]
    third = None if proto is None else torch.tensor([proto], requires_grad=True)
    return PairLogps(real, generated, fixed[0], fixed[1], torch.tensor([tokens[0]]), ONE, third, torch.tensor([tokens[1]]))


def random_pairs(num: int, seed: int = 0) -> PairLogps:
    """`num` pairs of responses of 1 to 39 tokens, some -2 nats a token, policy and opponent a little apart."""
    draw = torch.Generator().manual_seed(seed)
    tokens = [torch.randint(1, 40, (num,), generator=draw) for _ in range(2)]
    opponent = [-2.0 * count + torch.randn(num, generator=draw) for count in tokens]
    policy = [value + 3 * torch.randn(num, generator=draw) for value in opponent]
    return PairLogps(policy[0], policy[1], opponent[0], opponent[1], tokens[0], ONE, None, tokens[1])


def all_pairs(policy: Tensor, opponent: Tensor) -> PairLogps:
    """Every (real, generated) of a tabular model with V responses: V * V pairs, real first. Inputs are log-probabilities (V,)."""
    size = len(policy)
    real, generated = torch.arange(size).repeat_interleave(size), torch.arange(size).repeat(size)
    ones = torch.ones(size * size)
    return PairLogps(policy[real], policy[generated], opponent[real], opponent[generated], ones, ONE, None, ones)


def weights(data: Tensor, opponent: Tensor) -> Tensor:
    """The probability (V * V,) of each of those pairs when real ~ data and generated ~ opponent."""
    return (data[:, None] * opponent[None, :]).flatten()
