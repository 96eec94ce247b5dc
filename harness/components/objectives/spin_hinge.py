"""SPIN with the hinge loss: formula (4.7) of arXiv 2401.01335 with l(t) = max(0, 1 - t), one of the losses Assumption 5.1 allows.

    loss = max(0, 1 - beta * margin)

Grade A: Assumption 5.1 lists it, and the release has it (`loss_type: hinge`, relu(1 - beta * margin)). The paper reports no run of it.
A pair whose margin reaches 1 / beta stops contributing. It is not DPO's hinge on preferences, though the formula is the same.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import relu

from harness.contracts import PairLogps

VERSION = 1
BRANCHES = ("real", "generated")
OPPONENT = True
GRADE = "A"


def loss(logps: PairLogps, beta: float) -> Tensor:
    """One loss per pair (B,); 1 while policy and opponent are equal.

    Example: margin 4 at beta 0.1 costs max(0, 1 - 0.4) = 0.6; at beta 0.25 or more it costs 0.
    """
    return relu(1 - beta * logps.margin)
