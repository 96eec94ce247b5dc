"""zephyr-7b's architecture on torch's meta device: parameters counted, and what autograd keeps of a token, with no memory taken."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, MistralConfig

from harness.machine import Machine
from harness.runs.needs.memory import LOGITS_COPIES, LOGITS_TOKENS, OPTIMIZER_BYTES

MISTRAL_7B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 32000,
}  # fmt: skip
TOKENS = 64


class Counted(NamedTuple):
    """Parameters in all and of one layer, and the bytes that a token leaves behind for the backward pass, by layer and channel."""

    parameters: int
    layer: int
    bytes_a_token: float


@cache
def counted(dtype: torch.dtype, *, checkpointing: bool) -> Counted:
    """A forward pass over TOKENS tokens; what attention itself keeps grows with their square and is little."""
    config = MistralConfig(**MISTRAL_7B, sliding_window=None)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype)
        ids, mask = torch.zeros(1, TOKENS, dtype=torch.long), torch.ones(1, 1, TOKENS, TOKENS, dtype=torch.bool)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
    weights = {id(weight) for weight in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        base = tensor if tensor._base is None else tensor._base
        if not isinstance(tensor, nn.Parameter) and id(base) not in weights:
            kept[id(tensor.untyped_storage())] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.model(input_ids=ids, use_cache=False, attention_mask=mask)
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return Counted(
        parameters=sum(weight.numel() for weight in model.parameters()),
        layer=sum(weight.numel() for weight in model.model.layers[0].parameters()),
        bytes_a_token=total / TOKENS / config.num_hidden_layers / config.hidden_size,
    )


def training_gb(machine: Machine, tokens: int, optimizer: str) -> float:
    """GB on a device that trains this architecture in bf16 over so many tokens: state, gathered weights, activations, logits."""
    whole, bf16 = counted(torch.bfloat16, checkpointing=False), torch.bfloat16
    is_sharded, hidden, layers = machine.sharding != "none", MISTRAL_7B["hidden_size"], MISTRAL_7B["num_hidden_layers"]
    outside = whole.parameters - layers * whole.layer
    state = (4 + 4 + OPTIMIZER_BYTES[optimizer]) * whole.parameters / (machine.num_devices if is_sharded else 1)
    copies = (2 * 2 + 4) * whole.layer + (2 + 4) * outside if is_sharded else 2 * whole.parameters
    between = counted(bf16 if is_sharded else torch.float32, checkpointing=True).bytes_a_token
    activations = (between * layers + whole.bytes_a_token) * hidden * tokens
    return (state + copies + activations + LOGITS_TOKENS * MISTRAL_7B["vocab_size"] * 4 * LOGITS_COPIES) / 1e9
