"""SPIN with the correlation loss: formula (4.7) of arXiv 2401.01335 with l(t) = 1 - t, one of the losses Assumption 5.1 allows.

    loss = 1 - beta * margin

Grade A as a loss of the paper's family; neither the paper nor its release reports a run of it. It is linear: every pair pulls with the
same force for ever and there is no minimum, so the learning rate and the number of steps alone decide how far the policy goes.
"""

from __future__ import annotations

from torch import Tensor

from harness.contracts import PairLogps

VERSION = 1
BRANCHES = ("real", "generated")
OPPONENT = True
GRADE = "A"


def loss(logps: PairLogps, beta: float) -> Tensor:
    """One loss per pair (B,); 1 while policy and opponent are equal, negative once the margin passes 1 / beta.

    Example: margin 4 at beta 0.1 costs 1 - 0.4 = 0.6.
    """
    return 1 - beta * logps.margin
