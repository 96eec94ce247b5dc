"""SPACE against noise-contrastive estimation."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import logsigmoid

from harness.components.objectives import space
from tests.components.objectives.logps import all_pairs, pair, random_pairs, weights

DATA = torch.tensor([0.5, 0.3, 0.15, 0.05])
OTHER = torch.tensor([0.1, 0.2, 0.3, 0.4])


def test_mu_1_is_two_logistic_losses() -> None:
    """Promise: at mu = 1 each response is classified on its own: -log sigmoid(r_real) - log sigmoid(-r_generated)."""
    pairs = random_pairs(50)
    real, generated = pairs.policy_real - pairs.opponent_real, pairs.policy_generated - pairs.opponent_generated
    torch.testing.assert_close(space.loss(pairs, 1.0, mu=1.0), -logsigmoid(real) - logsigmoid(-generated))


@pytest.mark.parametrize("mu", [1.0, 3.0, 7.0])
def test_loss_while_policy_and_opponent_are_equal(mu: float) -> None:
    """Promise: the classifier's entropy for mu generated responses to a real one; 2 ln 2 at mu = 1."""
    found = space.loss(pair((-10.0, -300.0), (-10.0, -300.0)), 1.0, mu=mu).item()
    assert found == pytest.approx(math.log(1 + mu) + mu * math.log(1 + 1 / mu), rel=1e-6)


@pytest.mark.parametrize("mu", [1.0, 3.0])
def test_gradient_raises_real_and_lowers_generated(mu: float) -> None:
    """Promise: at the start the two pull equally, with mu / (1 + mu)."""
    logps = pair((-10.0, -12.0), (-10.0, -12.0))
    assert logps.policy_generated is not None
    found = torch.autograd.grad(space.loss(logps, 1.0, mu=mu).sum(), [logps.policy_real, logps.policy_generated])
    assert [float(one) for one in found] == pytest.approx([-mu / (1 + mu), mu / (1 + mu)])


def test_worked_number_of_the_docstring() -> None:
    """Promise: log-ratios 1 and -3 at mu = 1 cost 0.3618; beta changes nothing."""
    for beta in (0.1, 5.0):
        assert space.loss(pair((-10.0, -12.0), (-11.0, -9.0)), beta, mu=1.0).item() == pytest.approx(0.3618, abs=5e-5)


@pytest.mark.parametrize("mu", [1.0, 3.0, 7.0])
def test_data_distribution_is_the_minimum_against_any_opponent(mu: float) -> None:
    """Promise: the policy equal to the data's distribution is stationary and best, whoever the opponent is."""

    def expected_loss(policy: torch.Tensor) -> torch.Tensor:
        return (space.loss(all_pairs(policy, OTHER.log()), 1.0, mu=mu) * weights(DATA, OTHER)).sum()

    at_data = DATA.log().requires_grad_()
    best = expected_loss(at_data)
    assert torch.autograd.grad(best, at_data)[0].abs().max() < 1e-6
    for seed in range(20):
        noise = torch.randn(4, generator=torch.Generator().manual_seed(seed))
        assert float(expected_loss((DATA.log() + noise).log_softmax(0))) > float(best.detach())
