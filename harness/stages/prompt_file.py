"""Prompts on disk, in the order they are answered in, without holding them: an index in memory, requests on demand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.contracts import Request
from harness.contracts.stage_specs import GenerateSpec
from harness.errors import InputError
from harness.files import digest, read_jsonl_offsets
from harness.training.pairs import prompt_ids


class Prompt(NamedTuple):
    """A line of `prompts.jsonl`: its length in tokens, its id, and the byte at which it begins. Sorts shortest first, ties by id."""

    num_tokens: int
    prompt_id: str
    offset: int


class PromptFile:
    """`prompts.jsonl`, tokenized as `settings` say."""

    def __init__(self, path: Path, tokenizer: Any, settings: GenerateSpec) -> None:
        self.path = path
        self.tokenizer = tokenizer
        self.settings = settings

    def index(self) -> list[Prompt]:
        """Every prompt, sorted. None at all, or an id given twice, is an `InputError`."""
        prompts = [Prompt(len(self._token_ids(row)), row["prompt_id"], offset) for offset, row in read_jsonl_offsets(self.path)]
        if not prompts:
            raise InputError(f"{self.path.name} holds no prompt; check the recipe's `prompts` (split, length limits)")
        _require_unique(prompts)
        return sorted(prompts)

    def requests(self, offsets: Sequence[int]) -> list[Request]:
        """The requests of the lines that begin at `offsets`, in that order."""
        with open(self.path, "rb") as file:
            rows = []
            for offset in offsets:
                file.seek(offset)
                rows.append(json.loads(file.readline()))
        sampling = self.settings.sampling
        return [
            Request(
                request_id=row["prompt_id"],
                token_ids=self._token_ids(row),
                max_new_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=seed_of(self.settings.seed, row["prompt_id"]),
            )
            for row in rows
        ]

    def _token_ids(self, row: dict[str, Any]) -> list[int]:
        settings = self.settings
        return prompt_ids(self.tokenizer, settings.template, row["prompt"], settings.sampling.add_bos, settings.chat)


def seed_of(seed: int, prompt_id: str) -> int:
    """The seed of one prompt's draws: 64 bits of the sha256 of the stage's seed and the prompt's id."""
    return int(digest([seed, prompt_id])[:16], 16)


def _require_unique(prompts: Sequence[Prompt]) -> None:
    seen: set[str] = set()
    repeated = []
    for prompt in prompts:
        if prompt.prompt_id in seen:
            repeated.append(prompt.prompt_id)
        seen.add(prompt.prompt_id)
    if repeated:
        raise InputError(
            f"prompts.jsonl holds {len(set(repeated))} prompt ids more than once (first: {repeated[0]}); expected one row a prompt: "
            "fix the prompt source"
        )
