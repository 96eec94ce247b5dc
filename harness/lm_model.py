"""lm-eval's `hf` model with two changes: endings that share a context are scored in one row, and sampling is seeded per question.

Everything else (tokenization, stop strings, truncation from the left) is lm-eval's own, so scores equal its `hf` backend's.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from harness.errors import InputError
from harness.logps import Group, score_groups
from harness.progress import progress

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}

TokenRequest = tuple[tuple[str, str], list[int], list[int]]
"""(context and continuation as text, context ids, continuation ids), as lm-eval makes them."""


class SharedPromptLM(HFLM):  # type: ignore[misc]
    """A checkpoint behind lm-eval's model interface. No BOS is added; `seed` and the prompt alone decide a sampled answer."""

    def __init__(self, checkpoint: Path, precision: str, device: str, batch: int, seed: int) -> None:
        if not (checkpoint / "config.json").is_file():
            raise InputError(f"{checkpoint} holds no config.json; expected a saved transformers checkpoint")
        super().__init__(pretrained=str(checkpoint), dtype=DTYPES[precision], device=device, batch_size=batch, add_bos_token=False)
        self.seed = seed
        self._advance: Any = None

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> Any:
        """(log-probability in nats, whether greedy decoding would say it) for each (context, continuation)."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: list[TokenRequest], disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        members: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, (_, context, continuation) in enumerate(requests):
            members[tuple(self._fitting(context, continuation))].append(i)
        groups = [Group(list(prompt), [requests[i][2] for i in rows]) for prompt, rows in members.items()]
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        with progress("score", len(requests), "endings") as advance:
            for batch in _batches(groups, int(self.batch_size)):
                scores = score_groups(self.model, [groups[g] for g in batch])
                for g, branches in zip(batch, scores, strict=True):
                    rows = members[tuple(groups[g].prompt)]
                    for i, branch in zip(rows, branches, strict=True):
                        answers[i] = (float(branch.logp), bool(branch.is_greedy))
                    advance(len(rows))
        return answers

    def _fitting(self, context: list[int], continuation: list[int]) -> list[int]:
        """The end of the context that fits beside the continuation: at least one token, as lm-eval's `hf` cuts it."""
        return context[-(self.max_length + 1 - len(continuation)) :]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> Any:
        """The text generated for each (context, generation settings), cut at its stop strings."""
        with progress("answer", len(requests), "questions") as self._advance:
            return super().generate_until(requests, disable_tqdm=True)

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **generation_kwargs: Any) -> Tensor:
        """Token ids (B, T) continued; a `do_sample` request is drawn by `SeededNoise` instead of torch's global generator."""
        if generation_kwargs.pop("do_sample", False):
            prompts = [row[mask.bool()].tolist() for row, mask in zip(context, generation_kwargs["attention_mask"], strict=True)]
            noise = SeededNoise(prompts, self.seed, generation_kwargs.pop("temperature"))
            generation_kwargs["logits_processor"] = LogitsProcessorList([noise])
        generation_kwargs.pop("temperature", None)
        generated = super()._model_generate(context, max_length, stop, do_sample=False, temperature=0.0, **generation_kwargs)
        self._advance(len(context))
        return generated  # type: ignore[no-any-return]


class SeededNoise(LogitsProcessor):  # type: ignore[misc]
    """Gumbel noise on the logits, each row from a generator of its own: the argmax is then a draw from softmax(logits / temperature).

    A row's draws depend on its prompt and the seed, not on the other rows of its batch.
    """

    def __init__(self, prompts: list[list[int]], seed: int, temperature: float) -> None:
        self.temperature = temperature
        self.generators = [torch.Generator().manual_seed(_seed_of(prompt, seed)) for prompt in prompts]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, vocabulary) with noise added."""
        uniform = torch.stack([torch.rand(scores.shape[-1], generator=g, dtype=torch.float64) for g in self.generators])
        gumbel = -torch.log(-torch.log(uniform.clamp(min=torch.finfo(torch.float64).tiny)))
        return scores.float() / self.temperature + gumbel.to(scores.device, torch.float32)


def _seed_of(prompt: list[int], seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {prompt}".encode()).digest()[:7], "big")


def _batches(groups: list[Group], size: int) -> Iterator[list[int]]:
    """Indices of the groups, the longest rows first, `size` at a time."""
    order = sorted(range(len(groups)), key=lambda g: (-_row_length(groups[g]), groups[g].prompt))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _row_length(group: Group) -> int:
    return len(group.prompt) + sum(len(branch) for branch in group.branches)
