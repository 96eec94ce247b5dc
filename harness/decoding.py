"""Batched decoding over prompts whose shared prefixes are computed once: `decode` continues a unit of prompts until each has said its stop.

Keys and values of the prefix that all prompts share are kept once (harness/trunk_attention.py); the others of each prompt are laid into
one buffer with room for the whole answer, flush right, so a step copies nothing that is already there. A prompt that has ended leaves
the batch as soon as half of the batch has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from harness.prefix_forward import PrefixForward, windowed
from harness.prefixes import Row, trunks_of
from harness.trunk_attention import IMPLEMENTATION, States

Draw = Callable[[list[int], Tensor], Tensor]
"""(indices of the prompts, logits (B, V)) -> token ids (B,)."""
Ends = Callable[[list[int]], bool]
"""Whether the tokens said so far end an answer."""


def cache_bytes(model: PreTrainedModel) -> int:
    """Bytes of one token's keys and values."""
    layers = model.base_model.layers
    return int(2 * len(layers) * layers[0].self_attn.k_proj.out_features * model.dtype.itemsize)


def greedy(_: list[int], logits: Tensor) -> Tensor:
    return logits.argmax(dim=1)


@torch.inference_mode()
def decode(forward: PrefixForward, rows: Sequence[Row], max_new_tokens: int, draw: Draw, ends: Ends) -> dict[int, list[int]]:
    """{index: token ids} of the answers to the prompts in `rows`: each goes on until `ends` says so, for at most `max_new_tokens`."""
    said: dict[int, list[int]] = {index: [] for row in rows for index in row.paths}
    batch = _Batch(forward, rows, max_new_tokens)
    logits = batch.read(rows)
    with _attention_over(forward.model, batch):
        _say(batch, logits, said, max_new_tokens, draw, ends)
    return said


def _say(batch: _Batch, logits: Tensor, said: dict[int, list[int]], max_new_tokens: int, draw: Draw, ends: Ends) -> None:
    """Go on from the first `logits` until every answer in `said` has ended."""
    order = [*said]
    alive = {*order}
    for step in range(1, max_new_tokens + 1):
        tokens = draw(order, logits)
        for index, token in zip(order, tokens.tolist(), strict=True):
            if index in alive:
                said[index].append(token)
                if ends(said[index]):
                    alive.remove(index)
        if not alive or step == max_new_tokens:
            break
        if 2 * len(alive) <= len(order):
            kept = [b for b, index in enumerate(order) if index in alive]
            order, tokens = [order[b] for b in kept], tokens[kept]
            batch.keep(kept)
        logits = batch.step(tokens)


class _Batch:
    """The keys and values of a batch of prompts, and the step that reads one token more of each."""

    def __init__(self, forward: PrefixForward, rows: Sequence[Row], max_new_tokens: int) -> None:
        self.forward = forward
        device = forward.model.device
        self.num_shared = _num_shared(rows)
        lengths = [_num_past(row) + len(path) for row in rows for path in row.paths.values()]
        self.width = max(lengths) - self.num_shared  # places in the buffers, after what is shared
        self.size = self.width + max_new_tokens
        self.positions = torch.tensor(lengths, device=device)  # (B,) of the next token
        self.starts = self.width + self.num_shared - self.positions  # (B,) the first place that is not padding
        self.trunk: list[States] = []
        self.cache = DynamicCache()

    def read(self, rows: Sequence[Row]) -> Tensor:
        """Run the prompts and lay their keys and values into the buffers; the logits (B, V) of their first new tokens."""
        last: list[Tensor] = []
        for row in rows:
            hidden, cache = self.forward.run(row)
            if not self.cache.layers:
                self.cache.layers = [_Buffer(layer, len(self.positions), self.width, self.size) for layer in cache.layers]
                self.trunk = [tuple(x[:, :, : self.num_shared].clone() for x in (one.keys, one.values)) for one in cache.layers]
            num_past = _num_past(row)
            for path in row.paths.values():
                own = [*range(self.num_shared, num_past), *(num_past + place for place in path)]
                places = torch.tensor(own, device=hidden.device)
                for buffer, layer in zip(self.cache.layers, cache.layers, strict=True):
                    buffer.lay(len(last), layer, places)
                last.append(hidden[path[-1]])
        return self.forward.head(torch.stack(last)).float()  # type: ignore[no-any-return]

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these."""
        kept = torch.tensor(rows, device=self.positions.device)
        self.positions, self.starts = self.positions[kept], self.starts[kept]
        for layer in self.cache.layers:
            layer.keep(kept)

    def step(self, tokens: Tensor) -> Tensor:
        """Logits (B, V) after one more token (B,) of each row."""
        model = self.forward.model
        self.width += 1
        places = torch.arange(self.width, device=tokens.device)
        seen = (places >= self.starts[:, None])[:, None, None]  # (B, 1, 1, width)
        distance = (self.width - 1 - places).expand(len(tokens), -1)
        more: dict[str, Any] = {}
        if self.num_shared:
            shared = torch.arange(self.num_shared, device=tokens.device)
            seen = torch.nn.functional.pad(seen, (self.num_shared, 0), value=True)
            distance = torch.cat([self.positions[:, None] - shared, distance], dim=1)
            more["trunk"] = self.trunk
        hidden = model.base_model(
            input_ids=tokens[:, None],
            position_ids=self.positions[:, None],
            attention_mask=windowed(model.config, seen, distance[:, None, None]),
            past_key_values=self.cache,
            use_cache=True,
            **more,
        ).last_hidden_state  # (B, 1, D)
        self.positions = self.positions + 1
        return self.forward.head(hidden[:, 0]).float()  # type: ignore[no-any-return]


@contextmanager
def _attention_over(model: PreTrainedModel, batch: _Batch) -> Iterator[None]:
    """The model's attention while it decodes `batch`: its own where the prompts share nothing."""
    if not batch.num_shared:
        yield
        return
    own = model.config._attn_implementation
    model.set_attn_implementation(IMPLEMENTATION)
    try:
        yield
    finally:
        model.set_attn_implementation(own)


class _Buffer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values (B, heads, size, D) with room for the whole answer; prompts lie flush right before `width`.

    What is beyond `width` is never read before it is written, and takes no memory before that: most answers end long before the room does.
    """

    def __init__(self, like: DynamicLayer, num_rows: int, width: int, size: int) -> None:
        super().__init__()
        self.width = width
        _, heads, _, depth = like.keys.shape
        self.buffers = [like.keys.new_empty(num_rows, heads, size, depth) for _ in range(2)]
        for buffer in self.buffers:
            buffer[:, :, :width] = 0.0  # padding is masked, but NaN would not be
        self.is_initialized = True

    def lay(self, row: int, layer: DynamicLayer, places: Tensor) -> None:
        """Copy these places of a layer's keys and values (1, heads, T, D) before `width`."""
        for buffer, states in zip(self.buffers, (layer.keys, layer.values), strict=True):
            buffer[row, :, self.width - len(places) : self.width] = states[0].index_select(1, places)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The keys and values up to and including the new token's."""
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, self.width] = new[:, :, 0]
        self.width += 1
        keys, values = (buffer[:, :, : self.width] for buffer in self.buffers)
        return keys, values

    def get_seq_length(self) -> int:
        """Places in use."""
        return self.width

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        for i, buffer in enumerate(self.buffers):
            self.buffers[i] = buffer.new_empty(len(rows), *buffer.shape[1:])
            self.buffers[i][:, :, : self.width] = buffer[:, :, : self.width].index_select(0, rows)


def _num_shared(rows: Sequence[Row]) -> int:
    """Tokens of the trunks that all rows have in common; 0 for a single prompt, which shares with nobody."""
    if sum(len(row.paths) for row in rows) == 1:
        return 0
    chains = [[*trunks_of(row)][::-1] for row in rows]
    end = 0
    for trunks in zip(*chains, strict=False):
        if any(trunk is not trunks[0] for trunk in trunks):
            break
        end = trunks[0].end
    return end


def _num_past(row: Row) -> int:
    return row.trunk.end if row.trunk else 0
