"""SPACE, arXiv 2512.07175: self-play by noise-contrastive estimation; each response is told real or generated on its own.

    loss = -log s(mu, r_real) - mu * log s(1 / mu, -r_generated),   s(mu, z) = 1 / (1 + mu * exp(-z))
    r = policy - opponent, the log-ratio of a response

Grade C+: read in secondary sources only, one of which quotes the signature of its pseudocode (mu and four log-probabilities, no beta);
there is no released code, and none of the paper's numbers could be checked; the algebra of noise-contrastive estimation was. `mu` is the
ratio of generated to real responses that the classifier assumes. `beta` has no meaning here and is not used. It is not SPIN: there the two
log-ratios enter as a difference, so that a policy may lower both; and here p_data is the minimum against every opponent, which SPIN's
logistic loss has at beta 1 only. At mu = 1 the loss is
-log sigmoid(r_real) - log sigmoid(-r_generated).
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import softplus

from harness.contracts import PairLogps

VERSION = 1
BRANCHES = ("real", "generated")
OPPONENT = True
GRADE = "C+"


def loss(logps: PairLogps, beta: float, *, mu: float) -> Tensor:
    """One loss per pair (B,), in nats; log(1 + mu) + mu * log(1 + 1 / mu) while policy and opponent are equal.

    Example: real -10 (opponent -11), generated -12 (opponent -9), mu 1: log(1 + exp(-1)) + log(1 + exp(-3)) = 0.3133 + 0.0486 = 0.3618.
    """
    assert logps.policy_generated is not None
    assert logps.opponent_real is not None
    assert logps.opponent_generated is not None
    real = logps.policy_real - logps.opponent_real
    generated = logps.policy_generated - logps.opponent_generated
    return softplus(math.log(mu) - real) + mu * softplus(generated - math.log(mu))
