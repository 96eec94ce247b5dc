"""A model of a recipe's architecture with random weights: from its configuration and tokenizer alone, two layers, on a CPU narrow ones.

It finds what would stop a run, on a computer that could never hold the model; its times foretell nothing.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from harness.errors import InputError, first_line
from harness.recipe import ModelRef

FILES = ["*.json", "*.model", "*.jinja", "*.txt"]
"""Of a configuration and a tokenizer."""
LAYERS = 2
NARROW = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
SEED = 0


def random_model(ref: ModelRef, files: Path | None, target: Path, *, narrow: bool) -> ModelRef:
    """The directory under `target` with random weights in place of `ref`, made where it is not there; `files` in place of the Hub's.

    What a recipe does not take from the Hub or a directory is small or random already, and stays.
    """
    if ref.source not in ("hub", "path"):
        return ref
    folder = target / ref.name.replace("/", "--")
    if not folder.is_dir():
        beside = folder.with_name(f"{folder.name}.tmp")
        shutil.rmtree(beside, ignore_errors=True)
        _write(_files_of(ref, files), beside, narrow=narrow)
        beside.rename(folder)
    return ModelRef(source="path", name=str(folder.resolve()))


def num_parameters(folder: Path) -> int:
    """Weights of the model in `folder`, counted."""
    from safetensors import safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            total += sum(_size(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 (it is no mapping)
    return total


def _size(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _files_of(ref: ModelRef, files: Path | None) -> Path:
    """The directory with the model's configuration and tokenizer: the one given, the recipe's own, or the Hub's, without weights."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if files is not None:
        return files
    if ref.source == "path":
        return Path(ref.name).expanduser()
    try:
        return Path(snapshot_download(ref.name, revision=ref.revision, allow_patterns=FILES))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InputError(
            f"configuration and tokenizer of {ref.name} could not be loaded: {first_line(error)}; check the network and HF_TOKEN, "
            "or name a directory that holds them with --files"
        ) from None


def _write(source: Path, target: Path, *, narrow: bool) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    if not (source / "config.json").is_file():
        raise InputError(f"{source} holds no config.json; expected a model's configuration and tokenizer")
    config: Any = AutoConfig.from_pretrained(source, local_files_only=True)
    known = {name: value for name, value in config.to_dict().items() if name != "layer_types"}  # these follow from the rest
    changes = {"num_hidden_layers": LAYERS, **({name: value for name, value in NARROW.items() if name in known} if narrow else {})}
    logging.disable_progress_bar()
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(type(config)(**{**known, **changes}))
    target.mkdir(parents=True)
    for path in {path for pattern in FILES for path in source.glob(pattern)}:
        if path.name != "config.json" and not path.name.endswith(".index.json"):
            shutil.copyfile(path, target / path.name)
    model.save_pretrained(target)
