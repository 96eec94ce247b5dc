"""Supervised fine-tuning: cross-entropy of the real responses, per token. `beta` has no meaning here and is not used.

A pair's loss is its summed negative log-likelihood over the *global* batch's mean number of response tokens. So the mean over the
global batch is sum(nll) / sum(tokens), every token weighs the same, and neither micro-batch nor number of processes changes it.
It is not the mean of per-response means, in which a token of a short response would weigh more. Prompts are not trained on.
"""

from __future__ import annotations

from torch import Tensor

from harness.contracts import PairLogps

VERSION = 1
BRANCHES = ("real",)
OPPONENT = False
GRADE = "A"


def loss(logps: PairLogps, beta: float) -> Tensor:
    """One loss per pair (B,), in nats per token.

    Example: a global batch of two responses, -6 nats in 3 tokens and -4 nats in 1: mean_real_tokens 2, losses (3, 2),
    mean 2.5 = (6 + 4) / (3 + 1).
    """
    return -logps.policy_real / logps.mean_real_tokens
