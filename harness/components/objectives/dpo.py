"""Direct Preference Optimization, formula (7) of arXiv 2305.18290: the response people preferred against the one they did not.

    loss = -log sigmoid(beta * margin)

Grade A. The formula is SPIN's; what differs is the data. `real` is the preferred response and `generated` the other one, both from a
preference set, and the opponent is the policy as it stood before training (DPO's reference model). No label smoothing, no weighting,
log-probabilities summed over the response.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from harness.contracts import PairLogps

VERSION = 1
BRANCHES = ("real", "generated")
OPPONENT = True
GRADE = "A"


def loss(logps: PairLogps, beta: float) -> Tensor:
    """One loss per pair (B,), in nats; ln 2 before the first step.

    Example: preferred -10 (reference -11), other -12 (reference -9), beta 0.1: margin 1 + 3 = 4, loss -log sigmoid(0.4) = 0.5130.
    """
    return -logsigmoid(beta * logps.margin)
