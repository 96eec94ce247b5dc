"""Checkpoints made by code for tests: random Llamas over bytes or over the procedural source's words."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from harness.contracts import load
from harness.stages.model import build_tokenizer

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}


def byte_checkpoint(path: Path, max_length: int = 4096, seed: int = 0) -> Path:
    """A random model that reads any text: one token a byte."""
    return _save(path, _byte_tokenizer(), max_length, seed)


def gpt2_checkpoint(path: Path) -> Path:
    """A random GPT-2 that reads any text: a family our scorers do not name."""
    tokenizer = _byte_tokenizer()
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=128, eos_token_id=0, bos_token_id=0, initializer_range=0.5
    )
    GPT2LMHeadModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"<eos>": 0, **{char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")


def word_checkpoint(path: Path) -> Path:
    """A random model over the procedural source's words, with a chat template."""
    return _save(path, build_tokenizer(load("sources", "procedural").VOCABULARY), 256)


def _save(path: Path, tokenizer: PreTrainedTokenizerBase, max_length: int, seed: int = 0) -> Path:
    torch.manual_seed(seed)
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
