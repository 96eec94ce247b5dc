"""A dataset on the Hugging Face Hub (or in its offline cache): the first user turn and the response to it, or the recipe's choice.

Understands what harness/training/instructions.py does, a `messages`, `chosen` (preference sets such as ultrafeedback_binarized) or `real`
(the released SPIN sets) column before others. System turns are left out, as in the released code (uclaml/SPIN issue 37). Rows are named by
the sha256 of the prompt; the first of several rows with one prompt is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import datasets
from huggingface_hub.errors import HfHubHTTPError

from harness.contracts import Demonstration, LeftOut, Preference
from harness.errors import InputError, first_line
from harness.recipe import PromptSource
from harness.training.instructions import Layout, find_layout, instructions, preference_layouts, preferences, select

VERSION = 1


def load(spec: PromptSource) -> Iterable[Demonstration | LeftOut]:
    """The rows `prompt_ids` names, in that order; else the first `num_prompts` after a shuffle with `shuffle_seed`."""
    data = _in_order(spec)
    layout = find_layout(data.column_names, spec)
    return select(instructions(_rows(data, layout), layout, spec.response), spec)


def load_preferences(spec: PromptSource) -> Iterable[Preference | LeftOut]:
    """As `load`, with the columns `chosen` and `rejected`; a row whose two first turns are no answers to one prompt is left out."""
    data = _in_order(spec)
    better, worse = preference_layouts(data.column_names, spec)
    return select(preferences(_rows(data, better, worse), better, worse, spec.response), spec)


def _rows(data: datasets.Dataset, *layouts: Layout) -> Iterator[dict[str, Any]]:
    """The rows, only the columns that are read, without system turns."""
    columns = {column for layout in layouts for column in layout if column is not None}
    for row in data.select_columns(sorted(columns)):
        yield {column: _without_system(value) for column, value in row.items()}


def _without_system(value: Any) -> Any:
    return [turn for turn in value if turn.get("role") != "system"] if isinstance(value, list) else value


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
