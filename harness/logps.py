"""Log-probabilities of responses that share a prompt: one scorer, used by training and by multiple-choice evaluation.

A group is one prompt and any number of branches (responses, or answer endings). It becomes one row

    [prompt | branch 1 | branch 2 | ...]        positions restart after the prompt; a branch sees the prompt and itself

so the prompt, most of the tokens, is computed once. Only positions that predict a branch token go through the vocabulary
projection, in chunks recomputed in the backward pass: the (tokens x vocabulary) logits never exist at once. The result equals
scoring every `prompt + branch` alone, gradients included (tests/test_logps.py, per family). A family not listed in
`SHARED_FAMILIES`, or loaded with another attention than SDPA, is scored one padded `prompt + branch` a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harness.errors import InputError

SHARED_FAMILIES = frozenset({"llama", "mistral", "qwen2", "gemma"})
CHUNK_TOKENS = 1024
PADDING = -1


class Group(NamedTuple):
    """A prompt and its branches as token ids.

    `prompt_keys` and `branch_keys` say which tokens later tokens may attend to (None: all). A hidden token still has a position
    and its own log-probability still counts.
    """

    prompt: list[int]
    branches: list[list[int]]
    prompt_keys: list[bool] | None = None
    branch_keys: list[list[bool]] | None = None


class BranchScore(NamedTuple):
    """A branch's summed log-probability in nats, and whether greedy decoding would have produced it."""

    logp: float
    is_greedy: bool


class GroupScorer(nn.Module):
    """`group_logps` as a module, so that DDP, FSDP and autocast wrap the whole computation."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, groups: Sequence[Group]) -> Tensor:
        return group_logps(self.model, groups)


def group_logps(model: nn.Module, groups: Sequence[Group], *, chunk_tokens: int = CHUNK_TOKENS) -> Tensor:
    """Summed branch log-probabilities in nats, fp32, (num_groups, num_branches); differentiable.

    `model` is a causal language model of transformers. Every group has the same number of branches; an empty branch scores 0.
    Raises `InputError` for an empty prompt: nothing would predict a branch's first token.
    """
    num_branches = len(groups[0].branches)
    if any(len(group.branches) != num_branches for group in groups):
        raise ValueError(f"groups differ in their number of branches: {sorted({len(g.branches) for g in groups})}")
    token_logps = torch.cat([logps for logps, _ in _score_tokens(model, groups, chunk_tokens, False)])
    return torch.stack([part.sum() for part in torch.split(token_logps, _lengths(groups))]).view(len(groups), num_branches)


@torch.no_grad()
def score_groups(model: nn.Module, groups: Sequence[Group], *, chunk_tokens: int = CHUNK_TOKENS) -> list[list[BranchScore]]:
    """A `BranchScore` for every branch of every group, in order; no gradient. Raises `InputError` for an empty prompt."""
    chunks = list(_score_tokens(model, groups, chunk_tokens, True))
    token_logps, token_greedy = (torch.cat(parts).cpu() for parts in zip(*chunks, strict=True))
    lengths = _lengths(groups)
    logps = [part.sum().item() for part in torch.split(token_logps, lengths)]
    greedy = [bool(part.all()) for part in torch.split(token_greedy, lengths)]
    scores = iter(map(BranchScore, logps, greedy))
    return [[next(scores) for _ in group.branches] for group in groups]


def shares_prompts(model: nn.Module) -> bool:
    """Whether `model` is scored with one row a group, by the name of its family."""
    config: Any = model.config
    return config.model_type in SHARED_FAMILIES and config._attn_implementation == "sdpa"


def _lengths(groups: Sequence[Group]) -> list[int]:
    return [len(branch) for group in groups for branch in group.branches]


def _score_tokens(model: nn.Module, groups: Sequence[Group], chunk_tokens: int, with_greedy: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """(log-probability, is the argmax) of the branch tokens in order, a chunk at a time."""
    if any(not group.prompt for group in groups):
        raise InputError("a prompt has no tokens, so nothing predicts its response's first token; give it a BOS or a template")
    device = next(model.parameters()).device
    predict = _hidden_of_shared_rows if shares_prompts(model) else _logits_of_padded_rows
    features, project = predict(model, groups, device)
    targets = torch.tensor([token for g in groups for branch in g.branches for token in branch], dtype=torch.long, device=device)
    for some, wanted in zip(torch.split(features, chunk_tokens), torch.split(targets, chunk_tokens), strict=True):
        yield checkpoint(_select, project, some, wanted, with_greedy, use_reentrant=False, preserve_rng_state=False)


def _select(project: Callable[[Tensor], Tensor], features: Tensor, targets: Tensor, with_greedy: bool) -> tuple[Tensor, Tensor]:
    logits = project(features).float()  # (chunk, V)
    wanted = logits.gather(1, targets[:, None]).squeeze(1)
    greedy = logits.argmax(dim=1) == targets if with_greedy else torch.zeros_like(targets, dtype=torch.bool)
    return wanted - logits.logsumexp(dim=1), greedy


class _Row(NamedTuple):
    """A row's tokens, all of one length. `segments` is 0 in the prompt and i in branch i."""

    tokens: list[int]
    positions: list[int]
    segments: list[int]
    keys: list[bool]
    predictors: list[int]


def _row_of(group: Group) -> _Row:
    """The row `[prompt | branch 1 | ...]`; `predictors` are the places whose output predicts each branch token, in order."""
    num_prompt = len(group.prompt)
    row = _Row([*group.prompt], [*range(num_prompt)], [0] * num_prompt, group.prompt_keys or [True] * num_prompt, [])
    keys = [*row.keys]
    for number, branch in enumerate(group.branches, 1):
        start, length = len(row.tokens), len(branch)
        if branch:
            row.predictors.extend([num_prompt - 1, *range(start, start + length - 1)])
        row.tokens.extend(branch)
        row.positions.extend(range(num_prompt, num_prompt + length))
        row.segments.extend([number] * length)
        keys.extend(group.branch_keys[number - 1] if group.branch_keys else [True] * length)
    return row._replace(keys=keys)


def _pad(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> Tensor:
    """(num_rows, longest), filled with `value` on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], dtype=torch.long, device=device)


def _flat_places(rows: Sequence[_Row], width: int, device: torch.device) -> Tensor:
    """Indices of the predictors into a flattened (num_rows * width) batch."""
    places = [number * width + place for number, row in enumerate(rows) for place in row.predictors]
    return torch.tensor(places, dtype=torch.long, device=device)


def _hidden_of_shared_rows(model: nn.Module, groups: Sequence[Group], device: torch.device) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Hidden states (num_branch_tokens, D) that predict the branch tokens, and the projection to the vocabulary."""
    rows = [_row_of(group) for group in groups]
    positions = _pad([row.positions for row in rows], 0, device)
    segments = _pad([row.segments for row in rows], PADDING, device)
    keys = _pad([row.keys for row in rows], 0, device).bool()
    causal_lm: Any = model
    hidden = causal_lm.base_model(
        input_ids=_pad([row.tokens for row in rows], 0, device),
        attention_mask=_attention(causal_lm.config, positions, segments, keys),
        position_ids=positions,
        use_cache=False,
    ).last_hidden_state  # (G, T, D)
    places = _flat_places(rows, positions.shape[1], device)
    return hidden.flatten(0, 1).index_select(0, places), causal_lm.get_output_embeddings()


def _attention(config: Any, positions: Tensor, segments: Tensor, keys: Tensor) -> Tensor | dict[str, Tensor]:
    """The attention mask (G, 1, T, T), True where a query (row) sees a key (column), as the model's family takes it.

    A sliding window counts positions, not places in the row. A query that sees nothing (padding) sees itself, so softmax is defined.
    """
    width = segments.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool, device=segments.device).tril()
    own = (segments[:, None, :] == 0) | (segments[:, None, :] == segments[:, :, None])
    full = causal & own & keys[:, None, :]  # (G, T, T)
    if config.model_type == "qwen2":
        kinds = {"full_attention": full}
        if "sliding_attention" in config.layer_types:
            kinds["sliding_attention"] = _within(full, positions, config.sliding_window)
        return {kind: _defined(mask) for kind, mask in kinds.items()}
    if config.model_type == "mistral" and config.sliding_window is not None:
        return _defined(_within(full, positions, config.sliding_window))
    return _defined(full)


def _within(mask: Tensor, positions: Tensor, window: int) -> Tensor:
    return mask & (positions[:, :, None] - positions[:, None, :] < window)


def _defined(mask: Tensor) -> Tensor:
    itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    return (mask | (itself & ~mask.any(dim=2, keepdim=True)))[:, None]


def _logits_of_padded_rows(model: nn.Module, groups: Sequence[Group], device: torch.device) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Logits (num_branch_tokens, V) from one right-padded row a branch: the definition the shared rows must equal."""
    rows = [_row_of(one) for group in groups for one in _one_by_one(group)]
    tokens = _pad([row.tokens for row in rows], 0, device)
    keys = _pad([row.keys for row in rows], 0, device)
    logits = model(input_ids=tokens, attention_mask=keys, use_cache=False).logits  # (rows, T, V)
    return logits.flatten(0, 1).index_select(0, _flat_places(rows, tokens.shape[1], device)), nn.Identity()


def _one_by_one(group: Group) -> Iterator[Group]:
    for number, branch in enumerate(group.branches):
        yield group._replace(branches=[branch], branch_keys=group.branch_keys and [group.branch_keys[number]])
