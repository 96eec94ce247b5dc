"""Log-probabilities of responses that share a prompt: one scorer, used by training and by multiple-choice evaluation.

A group is one prompt and any number of branches (responses, or answer endings). It becomes a stretch

    [prompt | branch 1 | branch 2 | ...]        positions restart after the prompt; a branch sees the prompt and itself

so the prompt, most of the tokens, is computed once; all groups of a call are packed into one row without padding
(harness/lm/branch_attention.py). Only positions that predict a branch token go through the vocabulary projection, in chunks. Up to
`KEPT_LOGITS_BYTES` their logits are kept, and become their own gradient in place; what is beyond is recomputed in the backward pass.
The result equals scoring every `prompt + branch` alone, gradients included (tests/lm/test_group_logps.py, per family). A family not listed
in `SHARED_FAMILIES` (Gemma 2 and 3 cap their logits; others are untested), or loaded with another attention than SDPA, is scored
one padded `prompt + branch` a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harness.errors import InputError
from harness.lm.branch_attention import IMPLEMENTATION, Layout

SHARED_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma"})
CHUNK_TOKENS = 1024
KEPT_LOGITS_BYTES = 1 << 30
ROW_MULTIPLES = {"cuda": 128}
"""Tokens of a packed row come in multiples of this. Past the end of a row that ends inside one of its blocks, FlexAttention's backward
kernel reads sums of softmaxes that nothing defines (the sources of torch 2.11 and 2.13, pytorch/pytorch#186775), and a NaN among them would
reach every key and value. Read and not seen: on an H100 rows of any length had the gradient of whole blocks (docs/benchmarks.md)."""
SLICE_ELEMENTS = 1 << 20
"""Logits are reduced this many at a time, so that what a reduction needs besides them stays in the processor's cache."""

Project = Callable[[Tensor], Tensor]


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
    """`group_logps` as a module, so that DDP, FSDP and autocast wrap the whole computation.

    accelerate shards the layers of `_no_split_modules` one by one, and calls `tie_weights` once the sharded model has its weights.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        causal_lm: Any = model
        self._no_split_modules = causal_lm._no_split_modules
        self.model = model

    def tie_weights(self) -> None:
        causal_lm: Any = self.model
        causal_lm.tie_weights()

    def forward(self, groups: Sequence[Group]) -> Tensor:
        return group_logps(self.model, groups).clone()  # FSDP hooks the output, which must not be a view


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
    """Whether the groups of `model` share their prompts' computation, by the name of its family."""
    config: Any = model.config
    return config.model_type in SHARED_FAMILIES and config._attn_implementation in ("sdpa", IMPLEMENTATION)


def _lengths(groups: Sequence[Group]) -> list[int]:
    return [len(branch) for group in groups for branch in group.branches]


def _score_tokens(model: nn.Module, groups: Sequence[Group], chunk_tokens: int, with_greedy: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """(log-probability, is the argmax) of the branch tokens in order, a chunk at a time."""
    if any(not group.prompt for group in groups):
        raise InputError("a prompt has no tokens, so nothing predicts its response's first token; give it a BOS or a template")
    device = next(model.parameters()).device
    predict = _hidden_of_packed_groups if shares_prompts(model) else _logits_of_padded_rows
    features, project = predict(model, groups, device)
    targets = torch.tensor([token for g in groups for branch in g.branches for token in branch], dtype=torch.long, device=device)
    causal_lm: Any = model
    num_kept = KEPT_LOGITS_BYTES // (features.element_size() * causal_lm.config.vocab_size)
    done = 0
    for some, wanted in zip(torch.split(features, chunk_tokens), torch.split(targets, chunk_tokens), strict=True):
        done += len(wanted)
        if done <= num_kept or not torch.is_grad_enabled():
            yield _select(project, some, wanted, with_greedy)
        else:
            yield checkpoint(_select, project, some, wanted, with_greedy, use_reentrant=False, preserve_rng_state=False)


def _select(project: Project, features: Tensor, targets: Tensor, with_greedy: bool) -> tuple[Tensor, Tensor]:
    logits = project(features)  # (chunk, V)
    greedy = logits.argmax(dim=1) == targets if with_greedy else torch.zeros_like(targets, dtype=torch.bool)
    return _TokenLogps.apply(logits, targets), greedy  # type: ignore[no-untyped-call]


class _TokenLogps(torch.autograd.Function):
    """log softmax(logits)[target] in fp32 (n,); the backward pass writes the logits' gradient over the logits (n, V) themselves.

    Nothing else may read `logits` afterwards: what made them must not need its output for its own gradient, as a linear layer does not.
    A second backward pass is an error of autograd (the saved tensor has changed), never a wrong number.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        norms = torch.cat([part.float().logsumexp(dim=1) for part in torch.split(logits, _num_rows(logits))])
        ctx.save_for_backward(logits, targets, norms)
        return logits.gather(1, targets[:, None]).squeeze(1).float() - norms

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, targets, norms = ctx.saved_tensors
        num = _num_rows(logits)
        for part, target, norm, scale in zip(*(torch.split(x, num) for x in (logits, targets, norms, gradient)), strict=True):
            softmax = (part if part.dtype == torch.float32 else part.float()).sub_(norm[:, None]).exp_()
            softmax.scatter_add_(1, target[:, None], torch.full_like(norm, -1.0)[:, None])  # before rounding: 1 - p may be tiny
            part.copy_(softmax.mul_(-scale[:, None]))
        return logits, None


def _num_rows(logits: Tensor) -> int:
    return max(1, SLICE_ELEMENTS // logits.shape[1])


def _hidden_of_packed_groups(model: nn.Module, groups: Sequence[Group], device: torch.device) -> tuple[Tensor, Project]:
    """Hidden states (num_branch_tokens, D) that predict the branch tokens, and the projection to the vocabulary."""
    causal_lm: Any = model
    if causal_lm.config._attn_implementation != IMPLEMENTATION:
        causal_lm.set_attn_implementation(IMPLEMENTATION)
    groups = [*groups, *_filler(groups, ROW_MULTIPLES.get(device.type, 1))]
    tokens = [token for group in groups for part in (group.prompt, *group.branches) for token in part]
    layout = Layout([(len(g.prompt), [len(b) for b in g.branches]) for g in groups], _keys(groups), device)
    hidden = causal_lm.base_model(
        input_ids=torch.tensor([tokens], device=device),
        attention_mask=torch.ones(1, 1, 1, 1, device=device),  # four dimensions: models make no mask of their own; the layout is it
        position_ids=layout.positions[None],
        use_cache=False,
        layout=layout,
    ).last_hidden_state  # (1, N, D)
    places = torch.tensor(_predictors(groups), dtype=torch.long, device=device)
    return hidden[0].index_select(0, places), causal_lm.get_output_embeddings()


def _filler(groups: Sequence[Group], multiple: int) -> list[Group]:
    """A group without branches that makes the row a multiple of so many tokens."""
    missing = -sum(len(part) for group in groups for part in (group.prompt, *group.branches)) % multiple
    return [Group([0] * missing, [])] if missing else []


def _keys(groups: Sequence[Group]) -> list[bool]:
    keys: list[bool] = []
    for group in groups:
        keys += group.prompt_keys or [True] * len(group.prompt)
        for number, branch in enumerate(group.branches):
            keys += group.branch_keys[number] if group.branch_keys else [True] * len(branch)
    return keys


def _predictors(groups: Sequence[Group], width: int | None = None) -> list[int]:
    """The places whose output predicts each branch token, in order: in the packed row, or in rows of `width` tokens."""
    places: list[int] = []
    end = 0
    for number, group in enumerate(groups):
        first = end if width is None else number * width
        end = first + len(group.prompt)
        last = end - 1
        for branch in group.branches:
            if branch:
                places += (last, *range(end, end + len(branch) - 1))
            end += len(branch)
    return places


def _logits_of_padded_rows(model: nn.Module, groups: Sequence[Group], device: torch.device) -> tuple[Tensor, Project]:
    """Logits (num_branch_tokens, V) from one right-padded row a branch: the definition the packed groups must equal."""
    rows = [one for group in groups for one in _one_by_one(group)]
    tokens = _pad([row.prompt + row.branches[0] for row in rows], device)
    keys = _pad([_keys([row]) for row in rows], device)
    logits = model(input_ids=tokens, attention_mask=keys, use_cache=False).logits  # (rows, T, V)
    places = torch.tensor(_predictors(rows, tokens.shape[1]), dtype=torch.long, device=device)
    return logits.flatten(0, 1).index_select(0, places), torch.clone


def _pad(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """(num_rows, longest), filled with 0 on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], dtype=torch.long, device=device)


def _one_by_one(group: Group) -> Iterator[Group]:
    for number, branch in enumerate(group.branches):
        yield group._replace(branches=[branch], branch_keys=group.branch_keys and [group.branch_keys[number]])
