"""Rows over cached trunks equal scoring each sequence alone, for every family."""

from __future__ import annotations

import pytest
import torch

from harness.lm.prefix_forward import PrefixForward, is_supported
from harness.lm.prefix_tree import LONG_TRUNK, Scored, layout, trunks_of
from tests.families import FAMILIES, small_model, unnamed_model
from tests.lm.test_prefix_tree import some_sequences


@pytest.mark.parametrize("long_trunk", [LONG_TRUNK, 20])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_scores_equal_those_of_each_sequence_alone(family: str, long_trunk: int) -> None:
    """Log-probabilities agree to 1e-4 nats and greedy flags exactly, through nested trunks, branching rows and sliding windows."""
    model = small_model(FAMILIES[family]())
    sequences = some_sequences(1) + some_sequences(2)
    tokens = torch.tensor([[*sequences[0].tokens[: sequences[0].start]]])
    sequences.append(Scored((*tokens[0].tolist(), int(model(tokens).logits[0, -1].argmax())), tokens.shape[1]))
    rows = layout(sequences, 25, long_trunk)
    forward = PrefixForward(model)
    found = {i: score for row in rows for i, score in forward.score(row, sequences).items()}
    assert max(len([*trunks_of(row)]) for row in rows) >= 1
    assert found[len(sequences) - 1].is_greedy
    for i, (tokens_of, start) in enumerate(sequences):
        logps = model(torch.tensor([tokens_of])).logits[0, start - 1 : -1].log_softmax(-1)
        wanted = torch.tensor(tokens_of[start:])
        assert found[i].logp == pytest.approx(logps.gather(1, wanted[:, None]).sum().item(), abs=1e-4)
        assert found[i].is_greedy == bool((logps.argmax(-1) == wanted).all())


def test_a_family_nobody_checked_is_not_run_in_rows() -> None:
    """Support is by name, and only under the attention whose masks are meant."""
    assert not is_supported(unnamed_model())
    model = small_model(FAMILIES["llama"]())
    assert is_supported(model)
    model.set_attn_implementation("eager")
    assert not is_supported(model)
