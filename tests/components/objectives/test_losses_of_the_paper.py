"""SPIN's family of losses (Assumption 5.1) against the paper's theorems, on models small enough to enumerate."""

from __future__ import annotations

import math

import pytest
import torch

from harness.contracts import load
from tests.components.objectives.logps import all_pairs, pair, random_pairs, weights

FAMILY = {"spin": math.log(2), "spin_hinge": 1.0, "spin_exponential": 1.0, "spin_correlation": 1.0}
"""{objective: l(0)}."""

SLOPES = {"spin": -0.5, "spin_hinge": -1.0, "spin_exponential": -1.0, "spin_correlation": -1.0}
"""{objective: l'(0)}; Assumption 5.1 wants it negative."""

DATA = torch.tensor([0.5, 0.3, 0.15, 0.05])
OTHER = torch.tensor([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("name", FAMILY)
def test_loss_while_policy_and_opponent_are_equal(name: str) -> None:
    """Promise (Theorem 5.2): at policy = opponent the loss is l(0), whatever beta and whatever the log-probabilities."""
    for beta in (0.1, 5.0):
        assert load("objectives", name).loss(pair((-10.0, -300.0), (-10.0, -300.0)), beta).item() == pytest.approx(FAMILY[name])


@pytest.mark.parametrize("name", FAMILY)
def test_gradient_raises_real_and_lowers_generated(name: str) -> None:
    """Promise: at zero margin the gradient is beta * l'(0) on real and its opposite on generated."""
    logps = pair((-10.0, -12.0), (-10.0, -12.0))
    assert logps.policy_generated is not None
    found = torch.autograd.grad(load("objectives", name).loss(logps, 0.1).sum(), [logps.policy_real, logps.policy_generated])
    assert [float(one) for one in found] == pytest.approx([0.1 * SLOPES[name], -0.1 * SLOPES[name]])


@pytest.mark.parametrize(
    ("name", "expected"), [("spin", 0.5130), ("spin_hinge", 0.6), ("spin_exponential", 0.6703), ("spin_correlation", 0.6)]
)
def test_worked_numbers_of_the_docstrings(name: str, expected: float) -> None:
    """Promise: margin 4 at beta 0.1 costs what the file says it costs."""
    assert load("objectives", name).loss(pair((-10.0, -12.0), (-11.0, -9.0)), 0.1).item() == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("name", FAMILY)
def test_losses_are_convex_and_never_rise(name: str) -> None:
    """Promise (Assumption 5.1): over the margin each loss is convex and does not increase."""
    margins = torch.linspace(-6, 6, 121)
    zeros = torch.zeros_like(margins)
    values = load("objectives", name).loss(random_pairs(121)._replace(
        policy_real=margins, policy_generated=zeros, opponent_real=zeros, opponent_generated=zeros), 1.0)  # fmt: skip
    steps = values.diff()
    assert (steps <= 1e-6).all()
    assert (steps.diff() >= -1e-5).all()


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
def test_data_distribution_is_a_fixed_point(name: str, beta: float) -> None:
    """Promise (Theorem 5.2): once the opponent is the data's distribution no policy does better than it, and it is stationary."""
    objective = load("objectives", name)

    def expected_loss(logits: torch.Tensor) -> torch.Tensor:
        return (objective.loss(all_pairs(logits.log_softmax(0), DATA.log()), beta) * weights(DATA, DATA)).sum()

    at_data = DATA.log().requires_grad_()
    best = expected_loss(at_data)
    assert float(best.detach()) == pytest.approx(FAMILY[name], abs=1e-6)
    assert torch.autograd.grad(best, at_data)[0].abs().max() < 1e-6
    for seed in range(20):
        other = torch.randn(4, generator=torch.Generator().manual_seed(seed))
        assert float(expected_loss(other)) >= FAMILY[name] - 1e-5


@pytest.mark.parametrize("name", FAMILY)
def test_another_opponent_is_not_a_fixed_point(name: str) -> None:
    """Promise (Theorem 5.2): while the opponent is not the data's distribution, staying there is not stationary."""
    start = OTHER.log().requires_grad_()
    loss = (load("objectives", name).loss(all_pairs(start.log_softmax(0), OTHER.log()), 1.0) * weights(DATA, OTHER)).sum()
    gradient = torch.autograd.grad(loss, start)[0]
    assert gradient.abs().max() > 0.01
    assert gradient[0] < 0 < gradient[3]  # towards what the data has more of


@pytest.mark.parametrize("beta", [0.5, 1.0, 5.0])
def test_logistic_step_is_the_one_of_theorem_5_4(beta: float) -> None:
    """Promise (Theorem 5.4): the logistic loss is stationary at opponent * (data / opponent)^(1 / beta); at beta 1 that is the data."""
    policy = (OTHER.log() + (DATA / OTHER).log() / beta).log_softmax(0).requires_grad_()
    loss = (load("objectives", "spin").loss(all_pairs(policy, OTHER.log()), beta) * weights(DATA, OTHER)).sum()
    assert torch.autograd.grad(loss, policy)[0].abs().max() < 1e-6
    if beta == 1.0:
        torch.testing.assert_close(policy.exp().detach(), DATA)
