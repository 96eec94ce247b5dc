"""What bench/gpu.py measures with: shapes of Mistral-7B, random token ids at lengths like UltraChat's, and the training stage over them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from harness import machine as machines
from harness.components.sources.procedural import VOCABULARY
from harness.contracts import Request
from harness.contracts.stage_specs import TrainSpec
from harness.lm.group_logps import Group
from harness.lm.prefix_tree import Scored
from harness.machine import Machine
from harness.plan import plan
from harness.recipe import load
from harness.runs.needs import hardware
from harness.stages import train as stage
from harness.stages.model import build_tokenizer
from harness.training.pairs import Pair
from harness.training.policy import as_policy, open_accelerator

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROW_TOKENS = 4096
# no pad token: its embedding would be zero, and a first token of zeros stays so in every layer, each of which multiplies gradients by 1000
SPECIAL = {"max_position_embeddings": 32768, "sliding_window": 4096, "eos_token_id": 2, "bos_token_id": 1}
MISTRAL_7B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000,
    "num_hidden_layers": 32, **SPECIAL,
}  # fmt: skip
SMOLLM2_135M = {
    "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
    "num_hidden_layers": 30, **SPECIAL,
}  # fmt: skip
SMALL = {
    "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512,
    "num_hidden_layers": 2, **SPECIAL,
}  # fmt: skip


class Scale(NamedTuple):
    """Full, or small enough for a CPU and a test: an eighth of the sequences at a sixteenth of their lengths."""

    tiny: bool

    @property
    def shape(self) -> dict[str, int]:
        """Of the model, as transformers' MistralConfig takes it."""
        return SMALL if self.tiny else MISTRAL_7B

    def num(self, full: int) -> int:
        """How many, of `full`."""
        return max(full // 8, 1) if self.tiny else full

    def length(self, full: int) -> int:
        """How many tokens, of `full`."""
        return max(full // 16, 2) if self.tiny else full


def _ids(scale: Scale, draw: random.Random, least: int, most: int) -> list[int]:
    """Token ids, between `least` and `most` many at full scale."""
    return [draw.randrange(3, scale.shape["vocab_size"]) for _ in range(scale.length(draw.randint(least, most)))]


def groups(scale: Scale, num: int) -> list[Group]:
    """Prompts with two responses: about 170, 280 and 190 tokens."""
    draw = random.Random(0)
    return [
        Group(_ids(scale, draw, 40, 300), [_ids(scale, draw, 120, 440), _ids(scale, draw, 120, 256)]) for _ in range(max(scale.num(num), 2))
    ]


def questions(scale: Scale, num: int) -> list[Group]:
    """Multiple choice with examples before each question: prompts of 1200 tokens, four endings of 30."""
    draw = random.Random(1)
    return [Group(_ids(scale, draw, 1200, 1200), [_ids(scale, draw, 30, 30) for _ in range(4)]) for _ in range(scale.num(num))]


def endings(asked: list[Group]) -> list[Scored]:
    """Each ending of each question, to be scored after its prompt."""
    return [Scored((*one.prompt, *ending), len(one.prompt)) for one in asked for ending in one.branches]


def prompts(scale: Scale, num: int, length: int) -> list[Scored]:
    """To be answered through the prefix tree; they share nothing."""
    draw = random.Random(2)
    asked = (tuple(_ids(scale, draw, length - 100, length + 100)) for _ in range(scale.num(num)))
    return [Scored((*ids, -1), len(ids)) for ids in asked]


def requests(scale: Scale, num: int, length: int, max_new_tokens: int) -> list[Request]:
    """For an engine, at temperature 1."""
    draw = random.Random(3)
    return [Request(str(i), _ids(scale, draw, length, length), max_new_tokens, 1.0, 1.0, i) for i in range(scale.num(num))]


def machine(scale: Scale, sharding: str) -> Machine:
    """`h100x1` with this card's speed and memory; `cpu` where there is none, which cannot shard."""
    if DEVICE == "cpu":
        return machines.load("cpu").model_copy(update={"num_threads": 1, "micro_batch": 2, "generate_batch": 16})
    here = hardware.machine_for(load("zephyr-7b-lora"), hardware.look())
    found = {"sharding": sharding, "peak_tflops": here.peak_tflops, "memory_gb": here.memory_gb}
    return machines.load("h100x1").model_copy(update=found)


def training(scale: Scale, sharding: str, build: Callable[[], nn.Module], out: Path) -> stage.Training:
    """Iteration 0 of `zephyr-7b-lora`, or under FSDP2 of `zephyr-7b`, over made-up pairs: what the stage trains with, ready for step 0."""
    place = machine(scale, sharding)
    recipe = load("zephyr-7b-lora" if sharding == "none" else "zephyr-7b")
    spec = next(made.spec for made in plan(recipe) if made.path == "iter0/train")
    size = scale.num(64)
    settings = TrainSpec.model_validate({**spec, "template": "chat", "global_batch_size": size})
    accelerator = open_accelerator(settings, place, out)
    tokenizer = build_tokenizer(VOCABULARY)

    def policy() -> nn.Module:
        return as_policy(build().cpu(), settings, place)  # on the host, as a read checkpoint is: FSDP2 takes its shards from there

    return stage.assemble(settings, place, accelerator, _pairs(scale, 4 * size), tokenizer, policy)


def _pairs(scale: Scale, num: int) -> list[Pair]:
    draw = random.Random(4)

    def text(least: int, most: int) -> str:
        return " ".join(draw.choices(VOCABULARY, k=scale.length(draw.randint(least, most))))

    def prompt() -> list[dict[str, Any]]:
        return [{"role": "user", "content": text(40, 300)}]

    return [Pair(f"p{i}", prompt(), text(120, 440), text(120, 256), "stop") for i in range(num)]
