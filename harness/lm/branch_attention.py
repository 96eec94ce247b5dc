"""Attention over groups packed into one row without padding: each prompt computed once, each branch seeing its prompt and itself.

    [prompt a | branch a1 | branch a2 | prompt b | branch b1 | ...]      one row of all tokens; positions restart after a prompt

`IMPLEMENTATION` is registered with transformers as an attention of that name. Given a `Layout` (a keyword argument that models hand
through to their attention) it computes the groups apart; without one it is transformers' own SDPA, so a model stays usable as it is.

    CPU    SDPA, a call a piece (`Piece`): short groups together under a dense mask, a long one as `prompt + branch` sequences that
           need no mask at all. Measured on two cores, 9 heads of 64, forward and backward of 1024 tokens: causal 254 ms, dense
           mask 392 ms, written out as matrices 717 ms.
    CUDA   FlexAttention with a block mask, which skips what no query sees; on an H100 it agrees with
           padded rows in fp32 (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

IMPLEMENTATION = "shared_prompt"
BLOCK_TOKENS = 128
"""Groups are computed together under one dense mask up to this many tokens: below it, the calls cost more than the wasted products.

Measured on one thread, two layers of 4 heads, forward and backward: of 0, 64, 128, 256 and 512 it was the fastest or within 3 % of it
for groups of 23, 120 and 250 tokens. (32 groups of 23 tokens are still a third slower than as one padded batch; long groups gain.)"""


class Piece(NamedTuple):
    """One attention call, over numbered segments. `own`: the keys are the queries, in order, so plain causal attention may do.

    The outputs of the first `num_dropped` queries are not used: they are computed elsewhere.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    own: bool
    num_dropped: int


class Layout:
    """Where the groups of a packed row lie. `groups` holds (prompt length, branch lengths); a segment is a prompt or a branch.

    `is_key` (N,) says which tokens later tokens may attend to. Positions (N,) count from the start of the prompt.
    """

    def __init__(self, groups: Sequence[tuple[int, Sequence[int]]], is_key: Sequence[bool], device: torch.device) -> None:
        self.lengths = [length for prompt, branches in groups for length in (prompt, *branches)]
        self.starts = [0]
        for length in self.lengths:
            self.starts.append(self.starts[-1] + length)
        self.hides = not all(is_key)
        self.longest = max(prompt + max(branches, default=0) for prompt, branches in groups)
        lengths, place = torch.tensor(self.lengths), torch.arange(self.starts[-1])
        facts = [(g, s, s and prompt) for g, (prompt, branches) in enumerate(groups) for s in range(1 + len(branches))]
        group, branch, offset = torch.tensor(facts).T.repeat_interleave(lengths, dim=1)
        within = place - torch.tensor(self.starts[:-1]).repeat_interleave(lengths)
        self.group, self.branch, self.positions = group.to(device), branch.to(device), (offset + within).to(device)
        self.place, self.is_key = place.to(device), torch.tensor(is_key, dtype=torch.bool).to(device)
        self.pieces = _pieces([1 + len(branches) for _, branches in groups], self.lengths)
        self._masks: dict[tuple[int, int | None], Tensor | None] = {}
        self._block_masks: dict[int | None, BlockMask] = {}

    def sees(self, query: Any, key: Any, window: int | None) -> Any:
        """Whether the token at place `query` sees the one at `key`: the definition, for tensors of places that broadcast.

        A window counts positions, not places in the row.
        """
        before = (self.group[query] == self.group[key]) & (self.place[query] >= self.place[key])
        seen = before & ((self.branch[key] == 0) | (self.branch[query] == self.branch[key])) & self.is_key[key]
        if window is not None:
            seen = seen & (self.positions[query] - self.positions[key] < window)
        return seen

    def mask(self, number: int, window: int | None) -> Tensor | None:
        """The mask (1, 1, queries, keys) of a piece, True where a query sees a key; None where plain causal attention is right.

        A query that sees nothing sees itself, so softmax is defined.
        """
        window = self._reached(window)
        if (number, window) not in self._masks:
            piece = self.pieces[number]
            queries, keys = self._places(piece.queries), self._places(piece.keys)
            is_short = window is None or len(keys) <= window
            plain = piece.own and not self.hides and is_short and len(piece.queries) <= 2
            self._masks[number, window] = None if plain else self._defined(queries, keys, window)
        return self._masks[number, window]

    def _reached(self, window: int | None) -> int | None:
        """The window, None where no sequence is longer: it hides nothing."""
        return None if window is not None and window >= self.longest else window

    def _places(self, segments: Sequence[int]) -> Tensor:
        return torch.cat([self.place[self.starts[s] : self.starts[s + 1]] for s in segments])

    def _defined(self, queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
        seen: Tensor = self.sees(queries[:, None], keys[None, :], window)
        blind = ~seen.any(dim=1, keepdim=True)
        return (seen | (blind & (queries[:, None] == keys[None, :])))[None, None]

    def block_mask(self, window: int | None) -> BlockMask:
        """The whole row's mask for FlexAttention, which gives a token that sees nothing a zero."""
        window = self._reached(window)
        if window not in self._block_masks:
            num, device = self.starts[-1], str(self.place.device)
            self._block_masks[window] = create_block_mask(lambda b, h, q, k: self.sees(q, k, window), None, None, num, num, device=device)
        return self._block_masks[window]


def _pieces(num_segments: Sequence[int], lengths: Sequence[int]) -> list[Piece]:
    """The calls, in the order of the segments: short neighbours together, long groups branch by branch."""
    pieces: list[Piece] = []
    block: list[int] = []
    first = 0
    for num in num_segments:
        segments = tuple(range(first, first + num))
        size = sum(lengths[s] for s in segments)
        if block and sum(lengths[s] for s in block) + size > BLOCK_TOKENS:
            pieces.append(Piece(tuple(block), tuple(block), True, 0))
            block = []
        if size > BLOCK_TOKENS:
            pieces += _branch_by_branch(segments, lengths)
        else:
            block += segments
        first += num
    return [*pieces, Piece(tuple(block), tuple(block), True, 0)] if block else pieces


def _branch_by_branch(segments: Sequence[int], lengths: Sequence[int]) -> list[Piece]:
    """The prompt's queries go with the first branch; for a branch longer than its prompt, recomputing them costs less than a mask."""
    prompt, *branches = segments
    whole = (prompt, *branches[:1])
    pieces = [Piece(whole, whole, True, 0)]
    for branch in branches[1:]:
        if lengths[branch] > lengths[prompt]:
            pieces.append(Piece((prompt, branch), (prompt, branch), True, lengths[prompt]))
        elif lengths[branch]:
            pieces.append(Piece((branch,), (prompt, branch), False, 0))
    return pieces


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention (1, N, heads, D) of query (1, heads, N, D), key and value (1, key heads, N, D), as transformers calls it."""
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]
    window, scale = kwargs.get("sliding_window"), kwargs.get("scaling")
    if query.is_cuda:
        out: Any = _attend_by_blocks(query, key, value, layout, window, scale)
    else:
        repeats = query.shape[1] // key.shape[1]
        out = _attend_piecewise(query, repeat_kv(key, repeats), repeat_kv(value, repeats), layout, window, scale)
    return out.transpose(1, 2).contiguous(), None


def _attend_by_blocks(query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: int | None, scale: float | None) -> Any:
    """Under autocast rotary embeddings leave queries and keys in fp32; autocast casts them for SDPA, and FlexAttention it does not know."""
    query, key = query.to(value.dtype), key.to(value.dtype)
    mask, shares_heads = layout.block_mask(window), query.shape[1] != key.shape[1]
    return _compiled_flex()(query, key, value, block_mask=mask, scale=scale, enable_gqa=shares_heads)


def _attend_piecewise(query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: int | None, scale: float | None) -> Tensor:
    queries, keys, values = (torch.split(tensor, layout.lengths, dim=2) for tensor in (query, key, value))
    outputs = []
    for number, piece in enumerate(layout.pieces):
        mask = layout.mask(number, window)
        out = scaled_dot_product_attention(
            _join(queries, piece.queries),
            _join(keys, piece.keys),
            _join(values, piece.keys),
            attn_mask=mask,
            is_causal=mask is None,
            scale=scale,
        )
        outputs.append(out[:, :, piece.num_dropped :] if piece.num_dropped else out)
    return torch.cat(outputs, dim=2)


def _join(segments: Sequence[Tensor], chosen: Sequence[int]) -> Tensor:
    return segments[chosen[0]] if len(chosen) == 1 else torch.cat([segments[s] for s in chosen], dim=2)


@lru_cache(maxsize=1)
def _compiled_flex() -> Any:
    return torch.compile(flex_attention, dynamic=True)


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
