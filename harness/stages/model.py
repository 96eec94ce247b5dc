"""Stage `model`: the starting weights as an ordinary safetensors checkpoint in `checkpoint/`, whatever they come from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.contracts import load
from harness.contracts.stage_specs import ModelSpec
from harness.errors import InputError, first_line
from harness.files import naming_full_disk
from harness.machine import Machine
from harness.recipe import ModelRef
from harness.stages.packages import packaged_file

PAD, EOS, USER, ASSISTANT, UNKNOWN = "<pad>", "<eos>", "<user>", "<assistant>", "<unk>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<user>{{ message['content'] }}"
    "{% else %}<assistant>{{ message['content'] }}<eos>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.jinja"]


def run(spec: dict[str, Any], inputs: Mapping[str, Path], out: Path, machine: Machine) -> None:
    """Write `checkpoint/`, whole or not at all; what a killed launch left is replaced."""
    ref = ModelSpec.model_validate(spec).model
    beside, target = out / "checkpoint.tmp", out / "checkpoint"
    for path in (beside, target):
        shutil.rmtree(path, ignore_errors=True)
    {"hub": _from_hub, "path": _from_path, "package": _from_package, "scratch": _from_scratch}[ref.source](ref, beside)
    beside.rename(target)


def _from_hub(ref: ModelRef, target: Path) -> None:
    """The snapshot in the Hub's cache, downloaded where it is not there yet; offline what the cache holds."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        with naming_full_disk(target):
            snapshot = _snapshot(ref)
            _take(snapshot, target, _link)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InputError(
            f"model {ref.name}@{ref.revision} could not be loaded: {first_line(error)}; check the name, the network and HF_TOKEN"
        ) from None
    if not list(target.glob("*.safetensors")):
        raise InputError(f"model {ref.name}@{ref.revision} has no safetensors weights; other formats are not loaded")
    missing = [name for name in _shards(target) if not (target / name).exists()]
    if missing:
        raise InputError(f"model {ref.name}@{ref.revision} lacks {', '.join(missing)} in the cache {snapshot}; unset HF_HUB_OFFLINE once")


def _snapshot(ref: ModelRef) -> Path:
    """The model's folder in the Hub's cache; the Hub is asked only for what is missing there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted: dict[str, Any] = {"revision": ref.revision, "allow_patterns": HUB_FILES}
    with suppress(LocalEntryNotFoundError):
        cached = Path(snapshot_download(ref.name, local_files_only=True, **wanted))
        if list(cached.glob("*.safetensors")) and not [name for name in _shards(cached) if not (cached / name).exists()]:
            return cached
    return Path(snapshot_download(ref.name, **wanted))


def _shards(checkpoint: Path) -> list[str]:
    """The weight files that the checkpoint's index names; none where it has no index."""
    indices = checkpoint.glob("*.safetensors.index.json")
    return sorted({name for index in indices for name in json.loads(index.read_text())["weight_map"].values()})


def _from_path(ref: ModelRef, target: Path) -> None:
    source = Path(ref.name).expanduser()
    if not (source / "config.json").is_file() or not list(source.glob("*.safetensors")):
        raise InputError(f"model directory {ref.name} has no config.json with *.safetensors; expected a saved transformers checkpoint")
    _take(source, target, shutil.copyfile)


def _take(source: Path, target: Path, carry: Callable[[Path, Path], object]) -> None:
    """Bring weights, configuration and tokenizer of a checkpoint from `source` to `target`."""
    target.mkdir(parents=True)
    for path in {path for pattern in HUB_FILES for path in source.glob(pattern)}:
        carry(path, target / path.name)


def _link(source: Path, target: Path) -> None:
    """The same bytes under a second name, which costs no space; a copy where the two lie on different file systems."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _from_package(ref: ModelRef, target: Path) -> None:
    """A GGUF file of a PyPI distribution, dequantized to `ref.dtype`."""
    path = packaged_file(ref)
    options = {"gguf_file": path.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, dtype=getattr(torch, ref.dtype), quantization_config=GgufConfig(dequantize=True), **options
    )
    config = model.config
    for attribute in ("quantization_config", "_model_name_or_path"):
        config.__dict__.pop(attribute, None)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(path.parent, **options).save_pretrained(target)


def _from_scratch(ref: ModelRef, target: Path) -> None:
    """A random Llama with a tokenizer over the VOCABULARY of the source component `ref.name`."""
    tokenizer = build_tokenizer(load("sources", ref.name).VOCABULARY)
    torch.manual_seed(ref.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        **ref.config,
    )
    LlamaForCausalLM(config).to(getattr(torch, ref.dtype)).save_pretrained(target)
    tokenizer.save_pretrained(target)


def build_tokenizer(vocabulary: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the words of `vocabulary`, split at spaces, with a chat template of two role markers."""
    special = [PAD, EOS, USER, ASSISTANT, UNKNOWN]
    ids = {token: i for i, token in enumerate([*special, *vocabulary])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
