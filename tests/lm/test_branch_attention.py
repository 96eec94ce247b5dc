"""The layout of packed groups: what is computed in which call, and that no call sees more or less than it may."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import create_mask, flex_attention
from transformers import LlamaConfig

import harness.lm.branch_attention as shared
from harness.lm.branch_attention import IMPLEMENTATION, Layout
from harness.lm.group_logps import Group, group_logps
from tests.families import SIZES, small_model
from tests.lm.test_group_logps import FAMILIES, alone, relative_error

GROUPS = [(3, [4, 2]), (5, [1]), (2, [0, 3, 6])]
CPU = torch.device("cpu")


def layout(**changes: object) -> Layout:
    num = sum(prompt + sum(branches) for prompt, branches in GROUPS)
    keys = [place not in changes.get("hidden", ()) for place in range(num)]  # type: ignore[operator]
    return Layout(GROUPS, keys, CPU)


def reference(window: int | None, hidden: tuple[int, ...]) -> torch.Tensor:
    """Which token sees which, token by token, written independently."""
    tokens = [
        (g, s, position)
        for g, (prompt, branches) in enumerate(GROUPS)
        for s, length in enumerate((prompt, *branches))
        for position in range(prompt if s else 0, (prompt if s else 0) + length)
    ]
    sees = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    for q, (group, segment, position) in enumerate(tokens):
        for k, (other, part, place) in enumerate(tokens):
            related = group == other and part in (0, segment) and place <= position
            sees[q, k] = related and k not in hidden and (window is None or position - place < window)
    return sees


@pytest.mark.parametrize("hidden", [(), (1, 8)])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("block_tokens", [0, 8, 256])
def test_calls_cover_exactly_what_is_seen(
    block_tokens: int, window: int | None, hidden: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: however groups are cut into calls, each token's output is computed once and attends to exactly what it sees."""
    monkeypatch.setattr(shared, "BLOCK_TOKENS", block_tokens)
    made, expected = layout(hidden=hidden), reference(window, hidden)
    computed = []
    for number, piece in enumerate(made.pieces):
        queries, keys = made._places(piece.queries).tolist(), made._places(piece.keys).tolist()
        mask = made.mask(number, window)
        allowed = torch.ones(len(queries), len(keys)).tril().bool() if mask is None else mask[0, 0]
        for i, query in enumerate(queries[piece.num_dropped :], piece.num_dropped):
            seen = {key for j, key in enumerate(keys) if allowed[i, j]}
            assert seen == (set(expected[query].nonzero().flatten().tolist()) or {query})
            computed.append(query)
    assert computed == list(range(len(expected)))


@pytest.mark.parametrize("window", [None, 3])
def test_the_gpu_s_block_mask_is_the_same_mask(window: int | None) -> None:
    """Promise: FlexAttention's mask, which only a GPU trains with, is the definition the CPU's calls are tested against."""
    made = layout(hidden=(1, 8))
    num = made.starts[-1]
    mask = create_mask(made.block_mask(window).mask_mod, None, None, num, num, device="cpu")
    assert torch.equal(mask[0, 0], reference(window, (1, 8)))


def test_flex_attention_gives_the_cpu_s_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: forward on the CPU, the only half FlexAttention has there: its output is that of the calls, where a token sees any."""
    torch.manual_seed(0)
    monkeypatch.setattr(shared, "_compiled_flex", lambda: flex_attention)
    made = layout()
    query, key, value = (torch.randn(1, heads, made.starts[-1], 16) for heads in (4, 2, 2))
    flex = shared._attend_by_blocks(query, key, value, made, None, 0.3)
    ours, _ = shared.attend(torch.nn.Module(), query, key, value, None, made, scaling=0.3)
    torch.testing.assert_close(ours, flex.transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_flex_attention_computes_in_the_values_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: under autocast, where queries and keys come in fp32 and values in bf16, all three are bf16, as SDPA would have them."""
    made, types = layout(), []

    def flex(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **kwargs: object) -> torch.Tensor:
        types.extend((query.dtype, key.dtype, value.dtype))
        return value

    monkeypatch.setattr(shared, "_compiled_flex", lambda: flex)
    query, key, value = (torch.randn(1, 2, made.starts[-1], 16) for _ in range(3))
    shared._attend_by_blocks(query, key, value.bfloat16(), made, None, 0.3)
    assert types == [torch.bfloat16] * 3


def test_a_prepared_model_stays_an_ordinary_model() -> None:
    """Promise: without a layout, generation and padded batches included, nothing changes."""
    model = small_model(LlamaConfig(**SIZES))
    tokens, keys = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    before = model(tokens, attention_mask=keys).logits
    written = model.generate(tokens[:1], max_new_tokens=5, do_sample=False)  # type: ignore[operator]
    group_logps(model, [Group([1], [[2], [3]])])
    assert model.config._attn_implementation == IMPLEMENTATION  # type: ignore[union-attr]
    torch.testing.assert_close(model(tokens, attention_mask=keys).logits[keys.bool()], before[keys.bool()])
    assert torch.equal(model.generate(tokens[:1], max_new_tokens=5, do_sample=False), written)  # type: ignore[operator]


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gpt2"])
def test_long_groups_equal_single_sequences(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: the path without masks that long groups take gives the gradients of single sequences, for every family."""
    monkeypatch.setattr(shared, "BLOCK_TOKENS", 4)
    model = small_model(FAMILIES[family]())
    groups = [Group([1, 2, 3], [[4, 5, 6, 7, 8], [9, 10, 11, 12]]), Group([3, 4, 5, 6], [[7, 8], [9]]), Group([8], [[], [9, 9]])]
    ours = group_logps(model, groups, chunk_tokens=4)
    gradients = torch.autograd.grad(ours.square().sum(), list(model.parameters()))
    expected = torch.stack([torch.stack([alone(model, group, i)[0] for i in range(2)]) for group in groups])
    wanted = torch.autograd.grad(expected.square().sum(), list(model.parameters()))
    assert relative_error(ours, expected) < 1e-5
    whole = [torch.cat([g.flatten() for g in some]) for some in (gradients, wanted)]
    assert relative_error(whole[0], whole[1]) < 1e-5


def test_a_window_nobody_reaches_is_none() -> None:
    """Promise: where no sequence is longer than the window, its masks are those of full attention, on a CPU mostly none at all."""
    layout = Layout([(100, [30, 60]), (10, [150])], [True] * 350, torch.device("cpu"))
    assert [layout.mask(number, 160) is None for number in range(len(layout.pieces))] == [
        layout.mask(number, None) is None for number in range(len(layout.pieces))
    ]
    assert layout.block_mask(160) is layout.block_mask(None)
    assert layout.block_mask(159) is not layout.block_mask(None)
