"""The paper's section 5 on a policy that is a table of probabilities, where every minimum can be written down and computed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from harness.components.objectives import spin
from harness.contracts import PairLogps

P_DATA = torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03], dtype=torch.float64)
P_T = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25], dtype=torch.float64)
COUNT = torch.tensor([1])


def expected_loss(log_policy: Tensor, opponent: Tensor, beta: float) -> Tensor:
    """Formula (4.7) exactly: the mean of `spin.loss` over y ~ p_data and y' ~ the opponent, all pairs of answers."""
    num = len(P_DATA)
    real, generated = torch.meshgrid(torch.arange(num), torch.arange(num), indexing="ij")
    chance = (P_DATA[:, None] * opponent[None, :]).flatten()
    real, generated = real.flatten(), generated.flatten()
    logps = PairLogps(
        log_policy[real], log_policy[generated], opponent.log()[real], opponent.log()[generated], COUNT.expand(num * num), COUNT.double()
    )
    return (chance * spin.loss(logps, beta)).sum()


def minimise(opponent: Tensor, beta: float) -> Tensor:
    """The policy of least expected loss, from the opponent's own weights."""
    logits = opponent.log().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = expected_loss(logits.log_softmax(0), opponent, beta)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)
    return logits.detach().softmax(0)


def next_policy(opponent: Tensor, beta: float) -> Tensor:
    """Theorem 5.4: p_{t+1} proportional to p_t (p_data / p_t)^(1/beta)."""
    weights = opponent * (P_DATA / opponent) ** (1 / beta)
    return weights / weights.sum()


def divergence(p: Tensor, q: Tensor) -> float:
    return float((p * (p / q).log()).sum())


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0, 5.0])
def test_minimiser_is_the_paper_s(beta: float) -> None:
    """Theorem 5.4: the minimiser of the logistic loss is p_t (p_data / p_t)^(1/beta), normalised."""
    torch.testing.assert_close(minimise(P_T, beta), next_policy(P_T, beta), atol=1e-5, rtol=1e-4)


def test_beta_one_reaches_the_data_in_one_step() -> None:
    """Corollary: with beta 1 the minimiser is p_data itself, whatever the opponent."""
    torch.testing.assert_close(minimise(P_T, 1.0), P_DATA, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
def test_the_data_is_a_fixed_point(beta: float) -> None:
    """Theorem 5.2: against an opponent equal to p_data the loss is ln 2, p_data minimises it, and its gradient there is 0."""
    logits = P_DATA.log().clone().requires_grad_()
    loss = expected_loss(logits.log_softmax(0), P_DATA, beta)
    assert float(loss) == pytest.approx(math.log(2), abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(gradient.abs().max()) < 1e-12
    for other in (P_T, torch.full((5,), 0.2, dtype=torch.float64)):
        assert float(expected_loss(other.log(), P_DATA, beta)) > math.log(2)


def test_an_opponent_that_is_not_the_data_can_be_beaten() -> None:
    """Theorem 5.2, converse: for p_t other than p_data some loss lies below ln 2, which is the loss of p_t itself."""
    assert float(expected_loss(P_T.log(), P_T, 1.0)) == pytest.approx(math.log(2), abs=1e-12)
    assert float(expected_loss(minimise(P_T, 1.0).log(), P_T, 1.0)) < math.log(2) - 0.01


def test_smaller_beta_is_a_larger_step() -> None:
    """The log-ratio to the opponent grows as 1/beta: the smaller beta, the further from p_t; over 1, nearer to p_data each time."""
    distances = [divergence(minimise(P_T, beta), P_T) for beta in (5.0, 2.0, 1.0, 0.5)]
    assert distances == sorted(distances)
    policy, gaps = P_T, [divergence(P_DATA, P_T)]
    for _ in range(4):
        policy = minimise(policy, 2.0)
        gaps.append(divergence(P_DATA, policy))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < gaps[0] / 50


def random_logps() -> PairLogps:
    torch.manual_seed(0)
    return PairLogps(*(-50 * torch.rand(64) - 5 for _ in range(4)), COUNT.expand(64), COUNT.float())


@pytest.mark.parametrize("beta", [0.1, 5.0])
def test_logistic_spin_is_dpo_s_sigmoid(beta: float) -> None:
    """Rafailov et al. (7), written out: -log sigmoid(beta (log pi/ref chosen - log pi/ref rejected)) is SPIN's loss on the same pairs."""
    logps = random_logps()
    assert logps.policy_generated is not None
    assert logps.opponent_real is not None
    assert logps.opponent_generated is not None
    chosen, rejected = logps.policy_real - logps.opponent_real, logps.policy_generated - logps.opponent_generated
    torch.testing.assert_close(spin.loss(logps, beta), -logsigmoid(beta * chosen - beta * rejected))
