"""Stage `model`: the starting weights as an ordinary safetensors checkpoint in `checkpoint/`, whatever they come from."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.contracts import ModelSpec, load
from harness.errors import InputError, first_line
from harness.files import naming_full_disk
from harness.machine import Machine
from harness.recipe import ModelRef

PAD, EOS, USER, ASSISTANT, UNKNOWN = "<pad>", "<eos>", "<user>", "<assistant>", "<unk>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<user>{{ message['content'] }}"
    "{% else %}<assistant>{{ message['content'] }}<eos>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.jinja"]


def run(spec: dict[str, Any], inputs: Mapping[str, Path], out: Path, machine: Machine) -> None:
    """Write `checkpoint/`, whole or not at all; what a killed launch left is replaced, but a download goes on where it stopped."""
    ref = ModelSpec.model_validate(spec).model
    beside, target = out / "checkpoint.tmp", out / "checkpoint"
    for path in (target,) if ref.source == "hub" else (beside, target):
        shutil.rmtree(path, ignore_errors=True)
    {"hub": _from_hub, "path": _from_path, "package": _from_package, "scratch": _from_scratch}[ref.source](ref, beside)
    beside.rename(target)


def _from_hub(ref: ModelRef, target: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = {"revision": ref.revision, "allow_patterns": HUB_FILES}
    try:
        with naming_full_disk(target):
            try:
                _copy(Path(snapshot_download(ref.name, local_files_only=True, **wanted)), target)  # what `harness fetch` brought
            except LocalEntryNotFoundError:
                snapshot_download(ref.name, local_dir=target, **wanted)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InputError(
            f"model {ref.name}@{ref.revision} could not be loaded: {first_line(error)}; check the name, the network and HF_TOKEN"
        ) from None
    shutil.rmtree(target / ".cache", ignore_errors=True)  # the download's own notes, with times in them
    if not list(target.glob("*.safetensors")):
        raise InputError(f"model {ref.name}@{ref.revision} has no safetensors weights; other formats are not loaded")


def _from_path(ref: ModelRef, target: Path) -> None:
    source = Path(ref.name).expanduser()
    if not (source / "config.json").is_file() or not list(source.glob("*.safetensors")):
        raise InputError(f"model directory {ref.name} has no config.json with *.safetensors; expected a saved transformers checkpoint")
    _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for pattern in HUB_FILES:
        for path in source.glob(pattern):
            shutil.copyfile(path, target / path.name)


def _from_package(ref: ModelRef, target: Path) -> None:
    """A GGUF file inside an installed PyPI distribution, dequantized to `ref.dtype`."""
    distribution, _, name = ref.name.partition(":")
    path = _packaged_file(distribution, name, ref.revision)
    options = {"gguf_file": path.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, dtype=getattr(torch, ref.dtype), quantization_config=GgufConfig(dequantize=True), **options
    )
    config = model.config
    for attribute in ("quantization_config", "_model_name_or_path"):
        config.__dict__.pop(attribute, None)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(path.parent, **options).save_pretrained(target)


def _packaged_file(distribution: str, name: str, version: str | None) -> Path:
    try:
        package = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        raise InputError(f"package {distribution} is not installed; run: pip install {distribution}=={version}") from None
    if package.version != version:
        pinned = f"{distribution}=={version}"
        raise InputError(f"package {distribution} is {package.version}, the recipe pins {version}; run: pip install {pinned}")
    files = [file for file in package.files or [] if file.name == name]
    if not files:
        raise InputError(f"package {distribution} {version} holds no file {name}")
    return Path(str(package.locate_file(files[0])))


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
