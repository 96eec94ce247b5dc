"""T-SPIN against its equations (4) and (6)."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import softplus

from harness.components.objectives import t_spin
from tests.components.objectives.logps import pair, random_pairs


def test_worked_number_of_the_docstring() -> None:
    """Promise: real -10, generated -12, proto -9 cost 0.6836 at beta 0.1 and proto_weight 0.1."""
    found = t_spin.loss(pair((-10.0, -12.0), (0.0, 0.0), proto=-9.0), 0.1, proto_weight=0.1)
    assert found.item() == pytest.approx(0.6836, abs=5e-5)


def test_no_reference_is_read() -> None:
    """Promise: the opponent's log-probabilities change nothing, and may be absent."""
    without = pair((-10.0, -12.0), (0.0, 0.0), proto=-9.0)._replace(opponent_real=None, opponent_generated=None)
    assert t_spin.OPPONENT is False
    assert t_spin.loss(without, 0.1, proto_weight=0.1).item() == pytest.approx(0.6836, abs=5e-5)


def test_weight_0_leaves_the_current_pair() -> None:
    """Promise: at proto_weight 0 (iteration 0) it is the logistic loss of the policy's own log-probabilities."""
    pairs = random_pairs(50)._replace(policy_proto=torch.randn(50))
    torch.testing.assert_close(t_spin.loss(pairs, 0.5, proto_weight=0.0), softplus(-0.5 * (pairs.policy_real - pairs.policy_generated)))


def test_iteration_0_has_nothing_to_say_about_the_past() -> None:
    """Promise: where proto is the generated response itself, the second term is a constant without gradient."""
    logps = pair((-10.0, -12.0), (0.0, 0.0))
    same = logps._replace(policy_proto=logps.policy_generated)
    assert same.policy_generated is not None
    weighted, plain = (t_spin.loss(same, 1.0, proto_weight=weight) for weight in (0.7, 0.0))
    assert (weighted - plain).item() == pytest.approx(0.7 * math.log(2))
    gradients = [torch.autograd.grad(loss.sum(), same.policy_generated)[0] for loss in (weighted, plain)]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_gradient_orders_real_over_generated_over_proto() -> None:
    """Promise: descent raises real and lowers proto."""
    logps = pair((-10.0, -10.0), (0.0, 0.0), proto=-10.0)
    assert logps.policy_proto is not None
    found = torch.autograd.grad(t_spin.loss(logps, 1.0, proto_weight=0.1).sum(), [logps.policy_real, logps.policy_proto])
    assert [float(one) for one in found] == pytest.approx([-0.5, 0.05])
