"""The SPIN and SFT losses against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from harness.components.objectives import sft, spin
from harness.contracts import PairLogps


def logps(policy: tuple[float, float], opponent: tuple[float, float]) -> PairLogps:
    real, generated, *fixed = (torch.tensor([value], requires_grad=True) for value in (*policy, *opponent))
    return PairLogps(real, generated, fixed[0], fixed[1], torch.tensor([3]), torch.tensor(3.0))


@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
def test_equal_policy_and_opponent_cost_ln_2(beta: float) -> None:
    """Promise (Theorem 5.2): at policy = opponent the loss is ln 2, whatever beta and whatever the log-probabilities."""
    assert spin.loss(logps((-10.0, -300.0), (-10.0, -300.0)), beta).item() == pytest.approx(math.log(2), abs=1e-6)


def test_worked_number_of_the_docstring() -> None:
    """Promise: margin 4 at beta 0.1 costs log(1 + exp(-0.4)) = 0.5130."""
    assert spin.loss(logps((-10.0, -12.0), (-11.0, -9.0)), 0.1).item() == pytest.approx(0.5130, abs=5e-5)


def test_gradient_raises_real_and_lowers_generated() -> None:
    """Promise: at zero margin the gradient is -beta/2 on real and +beta/2 on generated; the opponent is a constant of the step."""
    pair = logps((-10.0, -12.0), (-10.0, -12.0))
    assert pair.policy_generated is not None
    real, generated = torch.autograd.grad(spin.loss(pair, 0.1).sum(), [pair.policy_real, pair.policy_generated])
    assert (float(real), float(generated)) == pytest.approx((-0.05, 0.05))


def test_same_formula_as_dpo_and_stable_far_out() -> None:
    """Promise: equal to -log sigmoid(beta * margin), finite for margins of thousands of nats."""
    margins = torch.tensor([-5000.0, -3.0, 0.0, 7.0, 5000.0])
    zeros = torch.zeros(5)
    pairs = PairLogps(margins, zeros, zeros, zeros, torch.ones(5), torch.tensor(1.0))
    ours = spin.loss(pairs, 1.0)
    torch.testing.assert_close(ours, -logsigmoid(margins))
    assert ours.isfinite().all()


def test_sft_weighs_every_token_of_the_global_batch_alike() -> None:
    """Promise: however a global batch is cut into micro-batches, the mean loss is sum(nll) / sum(tokens)."""
    nll, tokens = torch.tensor([6.0, 4.0, 20.0, 2.0]), torch.tensor([3, 1, 5, 7])

    def mean_loss(micro_batches: list[list[int]]) -> Tensor:
        mean_tokens = tokens.sum() / len(tokens)
        losses = [sft.loss(PairLogps(-nll[i], None, None, None, tokens[i], mean_tokens), 1.0) for i in micro_batches]
        return torch.cat(losses).mean()

    for micro_batches in ([[0, 1, 2, 3]], [[0, 1], [2, 3]], [[3], [0], [2], [1]]):
        assert float(mean_loss(micro_batches)) == pytest.approx(32 / 16)
