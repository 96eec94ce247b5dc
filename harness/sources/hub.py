"""A dataset on the Hugging Face Hub (or in its offline cache): the first user turn and the response to it.

Understands `messages` (ultrachat_200k), `chosen` (preference sets such as ultrafeedback_binarized) and `real` (the released
SPIN sets): lists of chat messages. Only the first turn is used, as in the released code (uclaml/SPIN issue 37).
Rows are named by the sha256 of the prompt; the first of several rows with one prompt is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import datasets
from huggingface_hub.errors import HfHubHTTPError

from harness.components import Row
from harness.errors import InputError, first_line
from harness.recipe import PromptSource

VERSION = 1
ID_DIGITS = 16
COLUMNS = ("messages", "chosen", "real")


def load(spec: PromptSource) -> list[Row]:
    """The rows `prompt_ids` names, in that order; else the first `num_prompts` after a shuffle with `shuffle_seed`."""
    data = _dataset(spec)
    column = next((name for name in COLUMNS if name in data.column_names), None)
    if column is None:
        raise InputError(f"{spec.dataset} has columns {data.column_names}; expected one of {', '.join(COLUMNS)} with chat messages")
    if spec.prompt_ids:
        return _named(data[column], spec)
    rows: dict[str, Row] = {}
    for conversation in data.shuffle(seed=spec.shuffle_seed)[column]:
        row = _first_turn(conversation)
        if row:
            rows.setdefault(row.prompt_id, row)
        if len(rows) == spec.num_prompts:
            break
    return list(rows.values())


def _named(conversations: Iterable[list[dict[str, Any]]], spec: PromptSource) -> list[Row]:
    rows: dict[str, Row] = {}
    for row in filter(None, map(_first_turn, conversations)):
        rows.setdefault(row.prompt_id[:ID_DIGITS], row)
    missing = [prompt_id for prompt_id in spec.prompt_ids if prompt_id not in rows]
    if missing:
        raise InputError(
            f"{spec.dataset} [{spec.split}] lacks {len(missing)} of the {len(spec.prompt_ids)} prompts the recipe names, "
            f"first {missing[0]}; check dataset and revision"
        )
    return [rows[prompt_id] for prompt_id in spec.prompt_ids]


def _dataset(spec: PromptSource) -> datasets.Dataset:
    try:
        return datasets.load_dataset(spec.dataset, spec.config, split=spec.split, revision=spec.revision)
    except (datasets.exceptions.DatasetsError, FileNotFoundError, ConnectionError, HfHubHTTPError, ValueError) as error:
        raise InputError(
            f"dataset {spec.dataset} [{spec.split}] cannot be had: {first_line(error)}; "
            "check the name, the network, and HF_HUB_OFFLINE with HF_DATASETS_CACHE"
        ) from None


def _first_turn(conversation: list[dict[str, Any]]) -> Row | None:
    turns = [turn for turn in conversation if turn["role"] != "system"][:2]
    if [turn["role"] for turn in turns] != ["user", "assistant"]:
        return None
    question, answer = (turn["content"] for turn in turns)
    if not question.strip() or not answer.strip():
        return None
    prompt_id = hashlib.sha256(question.encode()).hexdigest()
    return Row(prompt_id, [{"role": "user", "content": question}], answer)
