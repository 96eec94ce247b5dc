"""Supervised fine-tuning against transformers' own loss."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from harness.components.objectives import sft
from harness.contracts import PairLogps
from harness.lm.group_logps import Group, group_logps
from tests.tiny_checkpoints import byte_checkpoint


def test_mean_loss_is_that_of_transformers(tmp_path: Path) -> None:
    """Promise: over a batch of unequal responses the mean is the token mean transformers computes with the prompts' labels at -100."""
    model = AutoModelForCausalLM.from_pretrained(byte_checkpoint(tmp_path / "checkpoint"), dtype=torch.float32).eval()
    draw = torch.Generator().manual_seed(1)
    rows = [[torch.randint(1, 200, (size,), generator=draw).tolist() for size in sizes] for sizes in ((3, 9), (7, 1), (5, 4))]
    longest = max(len(prompt) + len(response) for prompt, response in rows)
    ids, labels, attended = (torch.full((3, longest), value) for value in (0, -100, 0))
    for row, (prompt, response) in enumerate(rows):
        size = len(prompt) + len(response)
        ids[row, :size], attended[row, :size] = torch.tensor(prompt + response), 1
        labels[row, len(prompt) : size] = torch.tensor(response)
    with torch.no_grad():
        theirs = model(input_ids=ids, attention_mask=attended, labels=labels).loss
        scored = group_logps(model, [Group(prompt, [response]) for prompt, response in rows])[:, 0]
    tokens = torch.tensor([len(response) for _, response in rows])
    ours = sft.loss(PairLogps(scored, None, None, None, tokens, tokens.float().mean()), 1.0).mean()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
