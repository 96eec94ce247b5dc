"""Generation with transformers' `model.generate`, in left-padded batches: the longest prompts first, of long ones fewer at a time.

A response depends on its own request only: draws come from `random.Random(request.seed)`, one uniform a token, inverted through
the cumulative distribution over the vocabulary. One uniform instead of a Gumbel draw per vocabulary entry costs
O(vocabulary) additions and no random numbers, and it is independent of batch, order, device and torch's generators.
Batches still change logits by float noise, so two batchings agree except where a draw falls within that noise. Keys and values are
written where they stay (`PreallocatedLayer`): transformers' own cache is copied whole at every token, which made a step of 32 rows of 300
tokens 1.66 times as long, one of 32 rows of 100 tokens no longer (SmolLM2-135M, two cores).
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer

from harness.contracts import Request, Response
from harness.errors import InputError, MachineError, RecipeError
from harness.lm.eos import cut, eos_ids, lack_of_room, require_prompts, says_a_stop
from harness.lm.prefix_forward import FAMILIES
from harness.lm.token_batches import batches
from harness.machine import USABLE, Machine

VERSION = 1

RANKED = 1024


class Engine:
    """A loaded model that answers requests, `batch_size` at a time, or so many that they have `batch_tokens` with their longest answers.

    `eos_ids` end a response and are never part of it; `tokenizer` reads what the `stops` of requests are looked for in.
    """

    def __init__(
        self, model: PreTrainedModel, eos_ids: Sequence[int], batch_size: int, batch_tokens: float = math.inf, tokenizer: Any = None
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.eos_ids = tuple(eos_ids)
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        """A response to each request, in their order; prompts of similar length are batched together.

        Raises `InputError` for an empty prompt and `RecipeError` for one too long for the model, before anything is generated.
        """
        require_prompts(requests)
        self._require_room(requests)
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].token_ids))[::-1]
        responses: dict[int, Response] = {}
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            longest_answer = max(requests[i].max_new_tokens for i in chosen)
            for run in batches([len(requests[i].token_ids) + longest_answer for i in chosen], self.batch_tokens):
                batch = [chosen[place] for place in run]
                responses.update(zip(batch, self._batch([requests[i] for i in batch]), strict=True))
        return [responses[i] for i in range(len(requests))]

    def _require_room(self, requests: Sequence[Request]) -> None:
        """Positions beyond a model's own give text without a warning: refuse them, where its configuration says how many it has."""
        context = getattr(self.model.config, "max_position_embeddings", None)
        if context is not None and (lack := lack_of_room(requests, context)):
            raise RecipeError(f"{lack}, the model has {context}; lower `max_new_tokens` in the recipe, or choose shorter prompts")

    def _batch(self, requests: Sequence[Request]) -> list[Response]:
        token_ids, mask = _left_pad([request.token_ids for request in requests], self.model.device)
        width = token_ids.shape[1]
        limits = torch.tensor([request.max_new_tokens for request in requests], device=self.model.device)
        longest = int(limits.max())
        try:
            sequences = self.model.generate(
                input_ids=token_ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(-1) - 1).clamp_min(0),
                past_key_values=empty_cache(self.model, width + longest),
                generation_config=self._config(longest),
                logits_processor=_processors(requests, self.model.device),
                stopping_criteria=StoppingCriteriaList([_PerRowLimit(limits, width), *self._stops(requests, width)]),
            )
        except torch.OutOfMemoryError:
            raise MachineError(
                f"out of device memory with {len(requests)} prompts of {width} tokens; lower the machine's generate_batch, "
                "or its memory_gb where other programs use the device"
            ) from None
        return [cut(request, ids, self.eos_ids) for request, ids in zip(requests, sequences[:, width:].tolist(), strict=True)]

    def _stops(self, requests: Sequence[Request], width: int) -> list[StoppingCriteria]:
        if not any(request.stops for request in requests):
            return []
        return [_PerRowStops([says_a_stop(self.tokenizer, request.stops) for request in requests], width)]

    def _config(self, max_new_tokens: int) -> GenerationConfig:
        """Greedy and nothing else: our processor has already chosen where a request samples."""
        pad = self.eos_ids[0] if self.eos_ids else 0
        return GenerationConfig(
            max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, eos_token_id=list(self.eos_ids) or None, pad_token_id=pad
        )


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """The keys and values (B, H, T, D) of a layer, in memory taken once for `num_tokens`; what attention reads is a view of it."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.memory: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """All keys and values so far, these last."""
        new = (key_states, value_states)
        if not self.memory:
            self.lazy_initialization(*new)
            self.memory = [states.new_empty((*states.shape[:2], self.num_tokens, states.shape[3])) for states in new]
        start, end = self.get_seq_length(), self.get_seq_length() + key_states.shape[2]
        for memory, states in zip(self.memory, new, strict=True):
            memory[:, :, start:end] = states
        self.keys, self.values = (memory[:, :, :end] for memory in self.memory)
        return self.keys, self.values


def empty_cache(model: PreTrainedModel, num_tokens: int) -> DynamicCache | None:
    """A cache for `num_tokens` a row, more than a window holds where layers have one: masks do the rest. None for families not named."""
    if model.config.model_type not in FAMILIES:
        return None
    cache = DynamicCache(config=model.config)
    cache.layers = [PreallocatedLayer(num_tokens) for _ in cache.layers]
    return cache


class _PerRowLimit(StoppingCriteria):  # type: ignore[misc]
    """Ends row i after `limits[i]` new tokens; `limits` is (B,), `width` the padded prompt length."""

    def __init__(self, limits: Tensor, width: int) -> None:
        self.limits, self.width = limits, width

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        return self.limits <= input_ids.shape[1] - self.width


class _PerRowStops(StoppingCriteria):  # type: ignore[misc]
    """Ends row i once `says_a_stop[i]` of its new tokens; `width` is the padded prompt length."""

    def __init__(self, says_a_stop: Sequence[Callable[[list[int]], bool]], width: int) -> None:
        self.says_a_stop, self.width = says_a_stop, width

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        new = input_ids[:, self.width :].tolist()
        return torch.tensor([says(row) for says, row in zip(self.says_a_stop, new, strict=True)], device=input_ids.device)


class _SeededSampling(LogitsProcessor):  # type: ignore[misc]
    """Raises the drawn token's logit to infinity, so that the argmax that follows takes it; greedy rows pass unchanged."""

    def __init__(self, requests: Sequence[Request], device: torch.device) -> None:
        rows = [i for i, request in enumerate(requests) if request.temperature > 0]
        sampled = [requests[i] for i in rows]
        self.rows = torch.tensor(rows, device=device)
        self.generators = [random.Random(request.seed) for request in sampled]
        self.temperature = torch.tensor([[request.temperature] for request in sampled], device=device)
        self.filters = any(request.top_p < 1 for request in sampled)
        top_p = [[request.top_p if request.top_p < 1 else math.inf] for request in sampled]
        self.top_p = torch.tensor(top_p, dtype=torch.float64, device=device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`scores` (B, V) in, (B, V) out. Called once a step, in order, so each row's generator advances with its tokens."""
        probabilities = (scores[self.rows] / self.temperature).softmax(-1)
        if self.filters:
            probabilities = keep_top_p(probabilities, self.top_p)
        uniform = torch.tensor([[generator.random()] for generator in self.generators], dtype=torch.float64, device=scores.device)
        scores[self.rows, invert_cdf(probabilities, uniform)] = torch.inf
        return scores


def invert_cdf(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The token (B,) at which the cumulative sum of `probabilities` (B, V) first exceeds the share `uniform` (B, 1) of its total."""
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    target = uniform * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp_max(probabilities.shape[1] - 1)


def keep_top_p(probabilities: Tensor, top_p: Tensor) -> Tensor:
    """`probabilities` (B, V) with all but the most probable tokens set to 0: the fewest whose sum reaches `top_p` (B, 1), and ties.

    Infinity keeps the whole row. Only the RANKED most probable tokens are sorted unless some row needs more.
    """
    size = probabilities.shape[1]
    for num_ranked in (min(RANKED, size), size):
        ranked = probabilities.topk(num_ranked).values
        reached = ranked.cumsum(-1, dtype=torch.float64)
        if bool(((reached[:, -1:] >= top_p) | top_p.isinf()).all()):
            break
    num_kept = (reached - ranked < top_p).sum(-1, keepdim=True)
    threshold = ranked.gather(-1, num_kept - 1).masked_fill(top_p.isinf(), 0)
    return probabilities.where(probabilities >= threshold, 0)


def open_engine(checkpoint: Path, dtype: str, machine: Machine) -> Engine:
    """The checkpoint's model in `dtype` ('float32', 'bfloat16') on the machine's device.

    The model's own generation_config gives EOS ids and nothing else: transformers would otherwise fill in its temperature, top_k or
    repetition_penalty wherever ours is unset. Raises `InputError` when the directory is not a checkpoint.
    """
    if machine.num_threads:
        torch.set_num_threads(machine.num_threads)
    warnings.filterwarnings("ignore", "`past_key_values` is deprecated", FutureWarning)  # pyproject.toml keeps the releases that have it
    try:
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=getattr(torch, dtype), local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{checkpoint} cannot be loaded as a model ({reason}); rebuild the stage that makes it") from None
    model.generation_config = GenerationConfig()
    model = model.to(torch.device(machine.device)).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    return Engine(model, eos_ids(checkpoint), machine.generate_batch, batch_tokens(model, machine), tokenizer)


def batch_tokens(model: PreTrainedModel, machine: Machine) -> float:
    """The tokens for which the machine's memory has room beside the weights of `model`; 1.6e5 for Mistral-7B in bf16 and 80 GB."""
    room = machine.memory_gb if machine.device == "cuda" else machine.memory_gb / machine.num_replicas
    weights: int = model.get_memory_footprint()
    return (USABLE * room * 1e9 - weights) / token_bytes(model)


def token_bytes(model: PreTrainedModel) -> int:
    """What a token takes while a prompt is read: keys and values in every layer, and inside one four vectors as wide as its widest matrix.

    Keys and values count twice, as was measured while transformers' cache was used, whose copies fit no hole that the last ones left: of an
    H100's 85 GB, counted once, 71 prompts of 3,500 tokens did not fit. Memory that is taken once should need less; no GPU has shown that
    yet. Example: Mistral-7B in bf16: 262 kB and 115 kB.
    """
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    embeddings = model.get_input_embeddings().weight
    widest = max(max(weight.shape) for weight in model.base_model.parameters() if weight is not embeddings)
    return int((2 * 2 * config.num_hidden_layers * heads * head_dim + 4 * widest) * model.dtype.itemsize)


def _processors(requests: Sequence[Request], device: torch.device) -> LogitsProcessorList:
    sampled = any(request.temperature > 0 for request in requests)
    return LogitsProcessorList([_SeededSampling(requests, device)] if sampled else [])


def _left_pad(prompts: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both (B, T), prompts flush right."""
    width = max(map(len, prompts))
    token_ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    return token_ids, mask
