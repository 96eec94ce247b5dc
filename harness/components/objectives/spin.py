"""SPIN, formula (4.7) of arXiv 2401.01335: the policy learns to tell the data's response from its own earlier one.

    loss = l(beta * margin),   l(t) = log(1 + exp(-t))
    margin = (policy_real - opponent_real) - (policy_generated - opponent_generated)

It is the paper's logistic loss, with `l` around the *difference* of the two log-ratios and `beta` for the paper's lambda.
Log-probabilities are sums over the response. It is not a sum of two losses, not length-normalised, and not DPO's setting though
the same formula: no preference was asked for; `real` is the SFT data and `generated` the frozen opponent's own sample.
At the start of an iteration policy and opponent are equal, so every margin is 0 and every loss is ln 2 = 0.6931.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from harness.contracts import PairLogps

VERSION = 1
BRANCHES = ("real", "generated")
OPPONENT = True
GRADE = "A"


def loss(logps: PairLogps, beta: float) -> Tensor:
    """One loss per pair (B,), in nats.

    Example: policy (real -10, generated -12), opponent (real -11, generated -9), beta 0.1:
    margin = (-10 + 11) - (-12 + 9) = 4, loss = log(1 + exp(-0.4)) = 0.5130.
    """
    return softplus(-beta * logps.margin)
