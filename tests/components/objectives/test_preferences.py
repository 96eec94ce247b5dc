"""DPO and IPO against hand-worked numbers, SPIN, and TRL's own loss function."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.components.objectives import dpo, ipo, spin, spin_hinge
from harness.contracts import PairLogps
from tests.components.objectives.logps import pair, random_pairs

BETAS = [0.01, 0.1, 1.0]


@pytest.mark.parametrize("beta", BETAS)
def test_dpo_is_spin_on_the_same_pairs(beta: float) -> None:
    """Promise: the formula is one; only what the pairs hold differs."""
    pairs = random_pairs(200)
    torch.testing.assert_close(dpo.loss(pairs, beta), spin.loss(pairs, beta))


def test_worked_numbers_of_the_docstrings() -> None:
    """Promise: what the two files say a pair costs."""
    assert dpo.loss(pair((-10.0, -12.0), (-11.0, -9.0)), 0.1).item() == pytest.approx(0.5130, abs=5e-5)
    assert ipo.loss(pair((-10.0, -12.0), (-11.0, -9.0), tokens=(2, 3)), 0.5).item() == pytest.approx(0.25)


@pytest.mark.parametrize("beta", BETAS)
def test_ipo_starts_at_and_stops_where_it_says(beta: float) -> None:
    """Promise: 1 / (4 beta^2) at policy = opponent; 0, with no gradient, at 1 / (2 beta) nats a token."""
    start = pair((-10.0, -12.0), (-10.0, -12.0), tokens=(5, 3))
    assert ipo.loss(start, beta).item() == pytest.approx(1 / (4 * beta**2), rel=1e-5)
    goal = pair((-10.0 + 5 / (2 * beta), -12.0), (-10.0, -12.0), tokens=(5, 3))
    loss = ipo.loss(goal, beta)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert float(torch.autograd.grad(loss.sum(), goal.policy_real)[0]) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("ours", "theirs"), [(dpo, "sigmoid"), (ipo, "ipo"), (spin_hinge, "hinge")])
def test_same_as_trl(ours: Any, theirs: str, beta: float) -> None:
    """Promise: the mean over random pairs equals what TRL's DPOTrainer computes from the same per-token log-probabilities."""
    trainer = pytest.importorskip("trl.trainer.dpo_trainer", reason="trl is not installed; pip install trl")
    pairs, outputs, inputs = per_token_batch()
    found = trainer.DPOTrainer._compute_loss(trl_trainer(theirs, beta), lambda **_: outputs, inputs, False)
    torch.testing.assert_close(ours.loss(pairs, beta).mean(), found)


def per_token_batch(num: int = 16, length: int = 12) -> tuple[PairLogps, SimpleNamespace, dict[str, Any]]:
    """Responses of 1 to 11 tokens: as summed log-probabilities, and as TRL's model output and inputs (real ones first)."""
    draw = torch.Generator().manual_seed(0)
    counts = torch.randint(1, length, (2 * num,), generator=draw)
    mask = torch.zeros(2 * num, length, dtype=torch.long)
    for row, count in enumerate(counts):
        mask[row, length - count :] = 1
    shifted = mask[:, 1:]
    logps = -torch.rand(2 * num, length - 1, generator=draw) * 4 * shifted
    opponent = logps.sum(1) + torch.randn(2 * num, generator=draw)
    real, generated = logps.sum(1).split(num)
    pairs = PairLogps(real, generated, *opponent.split(num), counts[:num], torch.tensor(1.0), None, counts[num:])
    outputs = SimpleNamespace(log_probs=logps, entropy=logps, mean_logits=logps, is_top1=shifted.bool())
    inputs = {
        "input_ids": mask,
        "attention_mask": mask,
        "completion_mask": mask,
        "ref_chosen_logps": opponent[:num],
        "ref_rejected_logps": opponent[num:],
    }
    return pairs, outputs, inputs


def trl_trainer(loss_type: str, beta: float) -> SimpleNamespace:
    """What `_compute_loss` reads of a DPOTrainer with TRL's defaults."""
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda value: value, gather=lambda value: value)
    return SimpleNamespace(
        model=torch.nn.Linear(1, 1),
        accelerator=accelerator,
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=beta,
        label_smoothing=0.0,
        use_weighting=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
