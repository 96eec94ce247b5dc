"""A dataset on the Hugging Face Hub (or in its offline cache): the first user turn and the response to it.

Understands `messages` (ultrachat_200k), `chosen` (preference sets such as ultrafeedback_binarized) and `real` (the released
SPIN sets): lists of chat messages. Only the first turn is used, as in the released code (uclaml/SPIN issue 37).
Rows are named by the sha256 of the prompt; the first of several rows with one prompt is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, TypeVar

import datasets
from huggingface_hub.errors import HfHubHTTPError

from harness.contracts import Demonstration, Preference
from harness.errors import InputError, first_line
from harness.recipe import PromptSource

VERSION = 1
ID_DIGITS = 16
COLUMNS = ("messages", "chosen", "real")

Item = TypeVar("Item", Demonstration, Preference)


def load(spec: PromptSource) -> list[Demonstration]:
    """The rows `prompt_ids` names, in that order; else the first `num_prompts` after a shuffle with `shuffle_seed`."""
    data = _in_order(spec)
    column = next((name for name in COLUMNS if name in data.column_names), None)
    if column is None:
        raise InputError(f"{spec.dataset} has columns {data.column_names}; expected one of {', '.join(COLUMNS)} with chat messages")
    return _selected(filter(None, map(_first_turn, data[column])), spec)


def load_preferences(spec: PromptSource) -> list[Preference]:
    """As `load`, with the columns `chosen` and `rejected`; a row whose two first turns are no answers to one prompt is left out."""
    data = _in_order(spec)
    absent = [name for name in ("chosen", "rejected") if name not in data.column_names]
    if absent:
        raise InputError(f"{spec.dataset} has columns {data.column_names}; expected chosen and rejected with chat messages")
    return _selected(filter(None, map(_preference, data["chosen"], data["rejected"])), spec)


def _preference(chosen: list[dict[str, Any]], rejected: list[dict[str, Any]]) -> Preference | None:
    better, worse = _first_turn(chosen), _first_turn(rejected)
    if better is None or worse is None or better.prompt_id != worse.prompt_id or better.real == worse.real:
        return None
    return Preference(better.prompt_id, better.prompt, better.real, worse.real)


def _selected(items: Iterable[Item], spec: PromptSource) -> list[Item]:
    if spec.prompt_ids:
        return _named(items, spec)
    found: dict[str, Item] = {}
    for item in items:
        found.setdefault(item.prompt_id, item)
        if len(found) == spec.num_prompts:
            break
    return list(found.values())


def _named(items: Iterable[Item], spec: PromptSource) -> list[Item]:
    found: dict[str, Item] = {}
    for item in items:
        found.setdefault(item.prompt_id[:ID_DIGITS], item)
    missing = [prompt_id for prompt_id in spec.prompt_ids if prompt_id not in found]
    if missing:
        raise InputError(
            f"{spec.dataset} [{spec.split}] lacks {len(missing)} of the {len(spec.prompt_ids)} prompts the recipe names, "
            f"first {missing[0]}; check dataset and revision"
        )
    return [found[prompt_id] for prompt_id in spec.prompt_ids]


def _in_order(spec: PromptSource) -> datasets.Dataset:
    """The dataset, shuffled unless the rows are named."""
    data = _dataset(spec)
    return data if spec.prompt_ids else data.shuffle(seed=spec.shuffle_seed)


def _dataset(spec: PromptSource) -> datasets.Dataset:
    try:
        return datasets.load_dataset(spec.dataset, spec.config, split=spec.split, revision=spec.revision)
    except (datasets.exceptions.DatasetsError, FileNotFoundError, ConnectionError, HfHubHTTPError, ValueError) as error:
        raise InputError(
            f"dataset {spec.dataset} [{spec.split}] could not be loaded: {first_line(error)}; "
            "check the name, the network, and HF_HUB_OFFLINE with HF_DATASETS_CACHE"
        ) from None


def _first_turn(conversation: list[dict[str, Any]]) -> Demonstration | None:
    turns = [turn for turn in conversation if turn["role"] != "system"][:2]
    if [turn["role"] for turn in turns] != ["user", "assistant"]:
        return None
    question, answer = (turn["content"] for turn in turns)
    if not question.strip() or not answer.strip():
        return None
    prompt_id = hashlib.sha256(question.encode()).hexdigest()
    return Demonstration(prompt_id, [{"role": "user", "content": question}], answer)
