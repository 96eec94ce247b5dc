"""SPIN with the exponential loss: formula (4.7) of arXiv 2401.01335 with l(t) = exp(-t), one of the losses Assumption 5.1 allows.

    loss = exp(-beta * margin)

Grade A as a loss of the paper's family; neither the paper nor its release reports a run of it. A pair the policy gets wrong weighs
exponentially, so one bad pair can rule a batch: beta times the margin above -88 is all that fp32 can hold.
"""

from __future__ import annotations

from torch import Tensor

from harness.contracts import PairLogps

VERSION = 1
BRANCHES = ("real", "generated")
OPPONENT = True
GRADE = "A"


def loss(logps: PairLogps, beta: float) -> Tensor:
    """One loss per pair (B,); 1 while policy and opponent are equal.

    Example: margin 4 at beta 0.1 costs exp(-0.4) = 0.6703.
    """
    return (-beta * logps.margin).exp()
