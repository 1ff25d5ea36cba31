"""Small models that read pictures, as random rows in the place of a projector's."""

from collections.abc import Callable

import numpy as np
from models.tiny_gguf import (
    ARRAY,
    EMBD,
    F32,
    FFN,
    HEADS,
    HEADS_KV,
    I32,
    U32,
    TinyModel,
    Value,
    add_attention,
    add_feed_forward,
    common_metadata,
    gpt2_vocabulary,
    start_weights,
)

from localinfra.engine.pictures import Picture


def tiny_qwen2vl(
    vocabulary: Callable[[], dict[str, Value]] = gpt2_vocabulary,
    layers: int = 2,
    context_length: int = 512,
    seed: int = 0,
) -> TinyModel:
    """M-RoPE: positions of pictures have parts for height and width."""
    words = vocabulary()
    weights = start_weights(words, seed)
    metadata = common_metadata("qwen2vl", layers, context_length) | {
        "qwen2vl.feed_forward_length": Value(U32, FFN),
        "qwen2vl.attention.head_count": Value(U32, HEADS),
        "qwen2vl.attention.head_count_kv": Value(U32, HEADS_KV),
        "qwen2vl.rope.dimension_sections": Value(ARRAY, [1, 1, 2, 0], I32),
        "qwen2vl.rope.freq_base": Value(F32, 10000.0),
    }
    head = EMBD // HEADS
    for layer in range(layers):
        add_attention(weights, layer, HEADS, HEADS_KV, head)
        weights.add(f"blk.{layer}.attn_q.bias", HEADS * head)
        weights.add(f"blk.{layer}.attn_k.bias", HEADS_KV * head)
        weights.add(f"blk.{layer}.attn_v.bias", HEADS_KV * head)
        add_feed_forward(weights, layer)
    return TinyModel(metadata | words, weights.tensors)


def tiny_qwen3vl(
    vocabulary: Callable[[], dict[str, Value]] = gpt2_vocabulary,
    layers: int = 3,
    context_length: int = 512,
    seed: int = 0,
    num_deep: int = 2,
) -> TinyModel:
    """Interleaved M-RoPE, and rows of pictures that also add to the first layers (deepstack)."""
    words = vocabulary()
    weights = start_weights(words, seed)
    head = EMBD // HEADS
    metadata = common_metadata("qwen3vl", layers, context_length) | {
        "qwen3vl.feed_forward_length": Value(U32, FFN),
        "qwen3vl.attention.head_count": Value(U32, HEADS),
        "qwen3vl.attention.head_count_kv": Value(U32, HEADS_KV),
        "qwen3vl.attention.key_length": Value(U32, head),
        "qwen3vl.attention.value_length": Value(U32, head),
        # As in real ones, a dimension is left that turns by the fourth part of a position.
        "qwen3vl.rope.dimension_sections": Value(ARRAY, [1, 1, 2, 0], I32),
        "qwen3vl.rope.freq_base": Value(F32, 10000.0),
        "qwen3vl.n_deepstack_layers": Value(U32, num_deep),
    }
    for layer in range(layers):
        add_attention(weights, layer, HEADS, HEADS_KV, head)
        weights.add(f"blk.{layer}.attn_q_norm.weight", head)
        weights.add(f"blk.{layer}.attn_k_norm.weight", head)
        add_feed_forward(weights, layer)
    return TinyModel(metadata | words, weights.tensors)


def random_picture(
    number: int, size: int = 12, *, is_causal: bool = True, grid: tuple[int, int] | None = None
) -> Picture:
    rows = np.random.default_rng(number).normal(0, 0.3, (size, EMBD)).astype(np.float32)
    return Picture(number.to_bytes(4, "little"), rows, grid, is_causal)
