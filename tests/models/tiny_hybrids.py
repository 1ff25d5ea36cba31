"""Small models with random weights that have a recurrent state and attention."""

from collections.abc import Callable

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


def tiny_lfm2(
    vocabulary: Callable[[], dict[str, Value]] = gpt2_vocabulary,
    layers: int = 4,
    context_length: int = 512,
    seed: int = 0,
) -> TinyModel:
    """A hybrid: short convolutions, which keep a state, with attention in every second layer."""
    taps = 3
    words = vocabulary()
    weights = start_weights(words, seed)
    weights.tensors[-1].name = "token_embd_norm.weight"
    heads_kv = [0 if layer % 2 == 0 else HEADS_KV for layer in range(layers)]
    metadata = common_metadata("lfm2", layers, context_length) | {
        "lfm2.feed_forward_length": Value(U32, FFN),
        "lfm2.attention.head_count": Value(U32, HEADS),
        "lfm2.attention.head_count_kv": Value(ARRAY, heads_kv, U32),
        "lfm2.rope.freq_base": Value(F32, 1000000.0),
        "lfm2.shortconv.l_cache": Value(U32, taps),
    }
    for layer in range(layers):
        if heads_kv[layer]:
            add_attention(weights, layer, HEADS, HEADS_KV, EMBD // HEADS)
            weights.add(f"blk.{layer}.attn_q_norm.weight", EMBD // HEADS)
            weights.add(f"blk.{layer}.attn_k_norm.weight", EMBD // HEADS)
        else:
            weights.add(f"blk.{layer}.attn_norm.weight", EMBD)
            weights.add(f"blk.{layer}.shortconv.conv.weight", taps, EMBD)
            weights.add(f"blk.{layer}.shortconv.in_proj.weight", EMBD, 3 * EMBD)
            weights.add(f"blk.{layer}.shortconv.out_proj.weight", EMBD, EMBD)
        add_feed_forward(weights, layer)
    return TinyModel(metadata | words, weights.tensors)


def tiny_qwen35(
    vocabulary: Callable[[], dict[str, Value]] = gpt2_vocabulary,
    layers: int = 4,
    context_length: int = 512,
    seed: int = 0,
) -> TinyModel:
    """A hybrid: a gated delta net, whose state is a matrix per head, with attention in every fourth
    layer."""
    head, state, heads_k, heads_v, conv = 16, 16, 2, 4, 4
    words = vocabulary()
    weights = start_weights(words, seed)
    metadata = common_metadata("qwen35", layers, context_length) | {
        "qwen35.feed_forward_length": Value(U32, FFN),
        "qwen35.attention.head_count": Value(U32, HEADS),
        "qwen35.attention.head_count_kv": Value(U32, HEADS_KV),
        "qwen35.attention.key_length": Value(U32, head),
        "qwen35.attention.value_length": Value(U32, head),
        "qwen35.rope.dimension_count": Value(U32, head),
        "qwen35.rope.dimension_sections": Value(ARRAY, [4, 2, 2, 0], I32),
        "qwen35.rope.freq_base": Value(F32, 1000000.0),
        "qwen35.full_attention_interval": Value(U32, 4),
        "qwen35.ssm.conv_kernel": Value(U32, conv),
        "qwen35.ssm.inner_size": Value(U32, heads_v * state),
        "qwen35.ssm.state_size": Value(U32, state),
        "qwen35.ssm.time_step_rank": Value(U32, heads_v),
        "qwen35.ssm.group_count": Value(U32, heads_k),
    }
    mixed = (2 * heads_k + heads_v) * state
    for layer in range(layers):
        if layer % 4 == 3:
            weights.add(f"blk.{layer}.attn_norm.weight", EMBD)
            weights.add(f"blk.{layer}.attn_q.weight", EMBD, 2 * HEADS * head)  # and its gate
            weights.add(f"blk.{layer}.attn_k.weight", EMBD, HEADS_KV * head)
            weights.add(f"blk.{layer}.attn_v.weight", EMBD, HEADS_KV * head)
            weights.add(f"blk.{layer}.attn_output.weight", HEADS * head, EMBD)
            weights.add(f"blk.{layer}.attn_q_norm.weight", head)
            weights.add(f"blk.{layer}.attn_k_norm.weight", head)
        else:
            weights.add(f"blk.{layer}.attn_norm.weight", EMBD)
            weights.add(f"blk.{layer}.attn_qkv.weight", EMBD, mixed)
            weights.add(f"blk.{layer}.attn_gate.weight", EMBD, heads_v * state)
            weights.add(f"blk.{layer}.ssm_conv1d.weight", conv, mixed)
            weights.add(f"blk.{layer}.ssm_dt.bias", heads_v)
            weights.add(f"blk.{layer}.ssm_a", heads_v)
            weights.add(f"blk.{layer}.ssm_beta.weight", EMBD, heads_v)
            weights.add(f"blk.{layer}.ssm_alpha.weight", EMBD, heads_v)
            weights.add(f"blk.{layer}.ssm_norm.weight", state)
            weights.add(f"blk.{layer}.ssm_out.weight", heads_v * state, EMBD)
        weights.add(f"blk.{layer}.post_attention_norm.weight", EMBD)
        add_feed_forward(weights, layer)
        weights.tensors = [t for t in weights.tensors if t.name != f"blk.{layer}.ffn_norm.weight"]
    return TinyModel(metadata | words, weights.tensors)
