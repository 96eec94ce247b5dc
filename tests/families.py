"""Small random models of every family the scorers name, and of one they do not."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

VOCABULARY = 97
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
FAMILIES: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SIZES),
    "llama_tied": lambda: LlamaConfig(**SIZES, tie_word_embeddings=True),
    "mistral_window_5": lambda: MistralConfig(**SIZES, sliding_window=5),
    "mistral_no_window": lambda: MistralConfig(**SIZES, sliding_window=None),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "qwen2_window_5": lambda: Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=8),
    "qwen3_window_5": lambda: Qwen3Config(**SIZES, head_dim=8, use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "gemma": lambda: GemmaConfig(**SIZES, head_dim=8),
}


def unnamed() -> PretrainedConfig:
    """The configuration of a family whose masks and caches nobody has checked."""
    return GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128)


def small_model(config: PretrainedConfig) -> PreTrainedModel:
    """Random weights, spread widely enough that greedy decoding is decisive."""
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.2)
    return model


def unnamed_model() -> PreTrainedModel:
    """A model of that family."""
    return small_model(unnamed())
