"""Identity Preference Optimization, formula (17) of arXiv 2310.12036, with log-ratios per token.

    loss = ((policy_real - opponent_real) / real_tokens - (policy_generated - opponent_generated) / generated_tokens - 1 / (2 beta))^2

The formula is grade A; dividing by the number of tokens is grade C: the paper does not speak of it, and TRL states that its authors
confirmed it as what they ran. beta is the paper's tau. Unlike DPO's the loss is smallest at a finite margin, 1 / (2 beta) nats a token.
"""

from __future__ import annotations

from torch import Tensor

from harness.contracts import PairLogps

VERSION = 1
BRANCHES = ("real", "generated")
OPPONENT = True
GRADE = "C"


def loss(logps: PairLogps, beta: float) -> Tensor:
    """One loss per pair (B,), in squared nats a token; 1 / (4 beta^2) before the first step.

    Example: real -10 (opponent -11) in 2 tokens, generated -12 (opponent -9) in 3, beta 0.5: (0.5 + 1 - 1)^2 = 0.25.
    """
    assert logps.policy_generated is not None
    assert logps.opponent_real is not None
    assert logps.opponent_generated is not None
    assert logps.generated_tokens is not None
    real = (logps.policy_real - logps.opponent_real) / logps.real_tokens.clamp(min=1)
    generated = (logps.policy_generated - logps.opponent_generated) / logps.generated_tokens.clamp(min=1)
    return (real - generated - 1 / (2 * beta)) ** 2
