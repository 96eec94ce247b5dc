"""T-SPIN, arXiv 2601.08198: triplets of real, generated and proto-synthetic responses, without a reference model.

    loss = l(beta * (real - generated)) + proto_weight * l(beta * (generated - proto)),   l(t) = log(1 + exp(-t))

Grade A: equations (4) and (6), Algorithm 1 and the pseudocode of appendix D agree. `beta` is its alpha (1 there), `proto_weight` its beta
(0 at iteration 0, then 0.1). `proto` is iteration 0's generated response: what the model said before any self-play, drawn once a prompt as
every response is. Log-probabilities are the policy's own sums, not log-ratios, so a longer response costs more whatever the policy thinks
of it, and the loss before the first step is not a constant.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from harness.contracts import PairLogps

VERSION = 1
BRANCHES = ("real", "generated", "proto")
OPPONENT = False
GRADE = "A"


def loss(logps: PairLogps, beta: float, *, proto_weight: float) -> Tensor:
    """One loss per pair (B,), in nats.

    Example: real -10, generated -12, proto -9, beta 0.1, proto_weight 0.1: log(1 + exp(-0.2)) + 0.1 * log(1 + exp(0.3)) = 0.6836.
    """
    assert logps.policy_generated is not None
    assert logps.policy_proto is not None
    current = softplus(-beta * (logps.policy_real - logps.policy_generated))
    history = softplus(-beta * (logps.policy_generated - logps.policy_proto))
    return current + proto_weight * history
