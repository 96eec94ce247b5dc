"""A checkpoint small enough for a unit test: a random Llama over the procedural source's words."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from harness.components.sources.procedural import VOCABULARY
from harness.machine import Machine
from harness.stages.model import build_tokenizer

MACHINE = Machine(
    name="test",
    summary="one thread",
    num_threads=1,
    generate_batch=4,
    generate_shard=5,
    peak_tflops=0.01,
    generate_tokens_per_second=100.0,
    memory_gb=1.0,
)


def save_checkpoint(folder: Path, seed: int = 0, head_dim: int = 8) -> Path:
    """`folder` with weights spread widely enough that greedy decoding is decisive, and a generation_config that must not be obeyed.

    vLLM's CPU attention asks for a `head_dim` of 32 at least.
    """
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(VOCABULARY)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=head_dim,
        initializer_range=0.3,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.3, top_k=2, repetition_penalty=5.0, max_length=20, eos_token_id=tokenizer.eos_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
