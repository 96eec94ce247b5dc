"""The forward passes behind harness/lm/prefix_tree.py: a trunk is computed once and stays as a KV cache while rows that follow it are run.

The first trunk and any row without branches use SDPA's causal kernel; other rows see their trunk whole and themselves through a mask.
Results equal computing every sequence alone (tests/lm/test_prefix_forward.py, per family). Families not named here take lm-eval's own path.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from harness.lm.prefix_tree import Row, Scored, Trunk, end_of, trunks_of

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma"})
CHUNK_TOKENS = 256


class Continuation(NamedTuple):
    """The summed log-probability of a sequence's scored tokens in nats, and whether greedy decoding would say them."""

    logp: float
    is_greedy: bool


def is_supported(model: PreTrainedModel) -> bool:
    """Whether rows with masks and caches mean to `model` what they mean here, by the name of its family."""
    return model.config.model_type in FAMILIES and model.config._attn_implementation == "sdpa"


class PrefixForward:
    """Runs rows in the order of their layout, keeping the caches of the trunks above the last one."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.head: Any = model.get_output_embeddings()
        self._caches: dict[int, tuple[Trunk, DynamicCache]] = {}

    @torch.inference_mode()
    def score(self, row: Row, sequences: Mapping[int, Scored] | Sequence[Scored]) -> dict[int, Continuation]:
        """{index: score} of the sequences in a row; at no time more than `CHUNK_TOKENS` rows of logits exist."""
        hidden, _ = self.run(row)
        wanted = [(place, token, i) for i, places in row.paths.items() for place, token in _scored(places, sequences[i])]
        wanted.sort()
        logps: dict[int, list[float]] = {i: [] for i in row.paths}
        greedy = dict.fromkeys(row.paths, True)
        places = sorted({place for place, _, _ in wanted})
        at = 0
        for start in range(0, len(places), CHUNK_TOKENS):
            chunk = places[start : start + CHUNK_TOKENS]
            stop = next((j for j in range(at, len(wanted)) if wanted[j][0] > chunk[-1]), len(wanted))
            some, at = wanted[at:stop], stop
            for (_, _, i), logp, best in zip(some, *self._of(hidden, chunk, some), strict=True):
                logps[i].append(logp)
                greedy[i] = greedy[i] and best
        return {i: Continuation(sum(values), greedy[i]) for i, values in logps.items()}

    def _of(self, hidden: Tensor, chunk: list[int], some: Sequence[tuple[int, int, int]]) -> tuple[list[float], list[bool]]:
        """Log-probability, and is it the argmax, of each wanted (place, token, sequence) of the places in `chunk`."""
        device = hidden.device
        logits = self.head(hidden[torch.tensor(chunk, device=device)]).float()  # (places, V)
        number = {place: n for n, place in enumerate(chunk)}
        rows = torch.tensor([number[place] for place, _, _ in some], device=device)
        tokens = torch.tensor([token for _, token, _ in some], device=device)
        logps = logits[rows, tokens] - logits.logsumexp(dim=1)[rows]
        return logps.tolist(), (logits.argmax(dim=1)[rows] == tokens).tolist()

    @torch.inference_mode()
    def run(self, row: Row, into: DynamicCache | None = None) -> tuple[Tensor, DynamicCache]:
        """The hidden states (T, D) of a row's tokens, and the cache of its trunk and itself, one batch row.

        A row without a trunk may bring the empty cache that its keys and values go into.
        """
        if row.trunk is None:
            self._caches.clear()
            mask = None if row.is_chain else self._mask(row)
            return self._forward(row.tokens, row.positions, mask, DynamicCache() if into is None else into)
        return self._forward(row.tokens, row.positions, self._mask(row), resumed(self.cache_of(row.trunk)))

    def cache_of(self, trunk: Trunk) -> DynamicCache:
        """The cache of a trunk and those above it; of other trunks only those above these stay in memory."""
        if id(trunk) not in self._caches:
            above = {id(one) for one in trunks_of(Row(trunk.parent))}
            self._caches = {key: kept for key, kept in self._caches.items() if key in above}
            row = Row(trunk.parent, trunk.tokens, [*range(trunk.start, trunk.end)], [0] * len(trunk.tokens), [0] * len(trunk.tokens))
            _, cache = self.run(row)
            self._caches[id(trunk)] = trunk, cache
        return self._caches[id(trunk)][1]

    def _forward(
        self, tokens: list[int], positions: list[int], mask: Tensor | Mapping[str, Tensor] | None, cache: DynamicCache
    ) -> tuple[Tensor, DynamicCache]:
        device = self.model.device
        hidden = self.model.base_model(
            input_ids=torch.tensor([tokens], device=device),
            position_ids=torch.tensor([positions], device=device),
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden[0], cache

    def _mask(self, row: Row) -> Tensor | Mapping[str, Tensor]:
        """(1, 1, T, past + T), True where a token of the row (line) sees a token (column)."""
        device = self.model.device
        edge, last = torch.tensor(row.edge, device=device), torch.tensor(row.last, device=device)
        size, num_past = len(row.tokens), end_of(row.trunk)
        own = (edge[None] <= edge[:, None]) & (edge[:, None] <= last[None])
        own &= torch.ones(size, size, dtype=torch.bool, device=device).tril()
        seen = torch.cat([torch.ones(size, num_past, dtype=torch.bool, device=device), own], dim=1)[None, None]
        queries = torch.tensor(row.positions, device=device)
        keys = torch.cat([torch.arange(num_past, device=device), queries])
        return windowed(self.model.config, seen, queries[:, None] - keys)


def resumed(past: DynamicCache) -> DynamicCache:
    """A cache that starts as `past` and grows without changing it."""
    cache = DynamicCache()
    cache.layers = [copy.copy(layer) for layer in past.layers]
    return cache


def windowed(config: Any, mask: Tensor, distance: Tensor) -> Tensor | Mapping[str, Tensor]:
    """`mask` as the model's family takes it: a family with a sliding window does not see keys at a `distance` of the window or more."""
    if config.model_type in ("qwen2", "qwen3"):
        kinds = {"full_attention": mask}
        if "sliding_attention" in config.layer_types:
            kinds["sliding_attention"] = mask & (distance < config.sliding_window)
        return kinds
    if config.model_type == "mistral" and config.sliding_window is not None:
        mask = mask & (distance < config.sliding_window)
    return mask


def _scored(places: list[int], sequence: Scored) -> list[tuple[int, int]]:
    """(place that predicts it, token) of each scored token."""
    tokens = sequence.tokens[sequence.start :]
    return list(zip(places[len(places) - len(tokens) :], tokens, strict=True))
