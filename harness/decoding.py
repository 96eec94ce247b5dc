"""Batched decoding over prompts whose shared prefixes are computed once: `decode` continues a unit of prompts until each has said its stop.

Every prompt's keys and values are laid into one buffer sized for the whole answer, flush right, so a step copies nothing that is already
there. A prompt that has ended leaves the batch as soon as half of the batch has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from harness.prefix_forward import PrefixForward, windowed
from harness.prefixes import Row


class Prompt(NamedTuple):
    """A prompt a row computed: its number, the logits (V,) of its first new token, each layer's keys and values (heads, T, D)."""

    number: int
    logits: Tensor
    states: list[tuple[Tensor, Tensor]]


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
def read(forward: PrefixForward, row: Row) -> list[Prompt]:
    """The prompts of a row, in its order."""
    hidden, cache = forward.run(row)
    num_past = row.trunk.end if row.trunk else 0
    prompts = []
    for index, path in row.paths.items():
        places = torch.tensor([*range(num_past), *(num_past + place for place in path)], device=hidden.device)
        states = [(layer.keys[0].index_select(1, places), layer.values[0].index_select(1, places)) for layer in cache.layers]
        prompts.append(Prompt(index, forward.head(hidden[path[-1]]).float(), states))
    return prompts


@torch.inference_mode()
def decode(forward: PrefixForward, prompts: Sequence[Prompt], max_new_tokens: int, draw: Draw, ends: Ends) -> dict[int, list[int]]:
    """{index: token ids} of the answers: each goes on until `ends` says so, for at most `max_new_tokens`."""
    said: dict[int, list[int]] = {prompt.number: [] for prompt in prompts}
    rows, alive = [*said], {*said}
    batch = _Batch(forward, prompts, max_new_tokens)
    logits = torch.stack([prompt.logits for prompt in prompts])
    for step in range(1, max_new_tokens + 1):
        tokens = draw(rows, logits)
        for index, token in zip(rows, tokens.tolist(), strict=True):
            if index in alive:
                said[index].append(token)
                if ends(said[index]):
                    alive.remove(index)
        if not alive or step == max_new_tokens:
            break
        if 2 * len(alive) <= len(rows):
            kept = [b for b, index in enumerate(rows) if index in alive]
            rows, tokens = [rows[b] for b in kept], tokens[kept]
            batch.keep(kept)
        logits = batch.step(tokens)
    return said


class _Batch:
    """The keys and values of a batch of prompts, and the step that reads one token more of each."""

    def __init__(self, forward: PrefixForward, prompts: Sequence[Prompt], max_new_tokens: int) -> None:
        self.forward = forward
        lengths = [prompt.states[0][0].shape[1] for prompt in prompts]
        self.width = max(lengths)
        self.positions = torch.tensor(lengths, device=prompts[0].logits.device)  # (B,) of the next token
        self.starts = self.width - self.positions  # (B,) the first place that is not padding
        self.cache = DynamicCache()
        size = self.width + max_new_tokens
        self.cache.layers = [_Buffer([p.states[n] for p in prompts], self.width, size) for n in range(len(prompts[0].states))]

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
        distance = (self.width - 1 - places)[None, None, None]
        hidden = model.base_model(
            input_ids=tokens[:, None],
            position_ids=self.positions[:, None],
            attention_mask=windowed(model.config, seen, distance),
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state  # (B, 1, D)
        self.positions = self.positions + 1
        return self.forward.head(hidden[:, 0]).float()  # type: ignore[no-any-return]


class _Buffer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values (B, heads, size, D) with room for the whole answer; prompts lie flush right before `width`."""

    def __init__(self, states: Sequence[tuple[Tensor, Tensor]], width: int, size: int) -> None:
        super().__init__()
        self.width = width
        self.buffers = [_laid(list(some), width, size) for some in zip(*states, strict=True)]
        self.is_initialized = True

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
        self.buffers = [buffer.index_select(0, rows) for buffer in self.buffers]


def _laid(states: list[Tensor], width: int, size: int) -> Tensor:
    """(B, heads, size, D) with each (heads, T, D) of `states` ending before place `width`."""
    heads, _, depth = states[0].shape
    buffer = states[0].new_zeros(len(states), heads, size, depth)
    for b, state in enumerate(states):
        buffer[b, :, width - state.shape[1] : width] = state
    return buffer
