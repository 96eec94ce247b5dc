"""Checkpoints made by code for tests: random Llamas over bytes or over the procedural source's words."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from harness.components import load
from harness.model import build_tokenizer

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}


def byte_checkpoint(path: Path, max_length: int = 4096) -> Path:
    """A random model that reads any text: one token a byte."""
    vocabulary = {"<eos>": 0, **{char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _save(path, PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>"), max_length)


def word_checkpoint(path: Path) -> Path:
    """A random model over the procedural source's words, with a chat template."""
    return _save(path, build_tokenizer(load("sources", "procedural").VOCABULARY), 256)


def _save(path: Path, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=max_length,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        initializer_range=0.5,
        **SIZES,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
