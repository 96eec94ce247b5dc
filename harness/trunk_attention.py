"""Attention of a decoding batch whose prompts begin alike: the shared beginning's keys and values are read once, not once a prompt.

`IMPLEMENTATION` is registered with transformers as an attention of that name. Given a `trunk` (a keyword argument that models hand through
to their attention) it attends to the trunk and to each prompt's own keys as one softmax would. A step is bound by reading memory.

    CPU    two calls of SDPA's kernel, which also gives the logarithm of each softmax's sum, and the two are weighed by that. Measured on
           one thread, 8 prompts of 400 tokens over 840 shared ones, 9 heads of 64: 1.06 ms a layer; every prompt whole 1.70 ms,
           written out as matrices 1.81 ms.
    CUDA   written out as matrices, as also on a CPU where a sliding window hides part of the trunk. Not run by us on CUDA.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

IMPLEMENTATION = "shared_trunk"
States = tuple[Tensor, Tensor]
"""A layer's keys and values (1, key heads, T, D)."""


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    trunk: Sequence[States],
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention (B, 1, heads, D) of one token's query (B, heads, 1, D) over the layer's trunk, then key and value (B, key heads, W, D).

    `attention_mask` (B, 1, 1, T + W) is True where a key is seen.
    """
    trunk_key, trunk_value = trunk[module.layer_idx]
    rows, heads, depth = query.shape[0], query.shape[1], query.shape[3]
    key_heads, length = key.shape[1], trunk_key.shape[2]
    grouped = query.view(rows, key_heads, heads // key_heads, depth)
    shared = grouped.transpose(0, 1).reshape(1, key_heads, -1, depth)  # (1, key heads, B * group, D): every query of the trunk's keys
    if query.device.type == "cpu" and bool(attention_mask[..., :length].all()):
        of_trunk, trunk_sum = _cpu_kernel(shared, trunk_key, trunk_value, scale=scaling)
        bias = torch.zeros_like(attention_mask[..., length:], dtype=query.dtype).masked_fill_(~attention_mask[..., length:], float("-inf"))
        of_own, own_sum = _cpu_kernel(grouped, key, value, attn_mask=bias, scale=scaling)
        share = torch.sigmoid(trunk_sum.view(key_heads, rows, -1).transpose(0, 1) - own_sum)[..., None].to(query.dtype)
        out = torch.lerp(of_own, of_trunk.view(key_heads, rows, -1, depth).transpose(0, 1), share)
    else:
        to_trunk = (shared[0] @ trunk_key[0].transpose(1, 2)).view(key_heads, rows, -1, length).transpose(0, 1)
        scores = torch.cat([to_trunk, grouped @ key.transpose(2, 3)], dim=3).float() * scaling  # (B, key heads, group, T + W)
        weights = scores.masked_fill_(~attention_mask, float("-inf")).softmax(dim=3).to(value.dtype)
        of_trunk = weights[..., :length].transpose(0, 1).reshape(key_heads, -1, length) @ trunk_value[0]
        out = of_trunk.view(key_heads, rows, -1, depth).transpose(0, 1) + weights[..., length:] @ value
    return out.reshape(rows, 1, heads, depth), None


_cpu_kernel: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
