"""A small model with random weights whose cache has latent vectors in the place of keys and values
(multi-head latent attention, MLA)."""

from models.tiny_gguf import (
    EMBD,
    F32,
    FFN,
    HEADS,
    U32,
    TinyModel,
    Value,
    add_feed_forward,
    common_metadata,
    gpt2_vocabulary,
    start_weights,
)

LATENT = 16  # numbers of a latent vector, and of a query's
ROPE, PLAIN, VALUE = 8, 8, 8  # numbers of a head: of its key with a position, without, of its value


def tiny_deepseek2(layers: int = 2, seed: int = 0) -> TinyModel:
    words = gpt2_vocabulary()
    weights = start_weights(words, seed)
    metadata = common_metadata("deepseek2", layers, 512) | {
        "deepseek2.feed_forward_length": Value(U32, FFN),
        "deepseek2.attention.head_count": Value(U32, HEADS),
        "deepseek2.attention.head_count_kv": Value(U32, 1),
        "deepseek2.attention.q_lora_rank": Value(U32, LATENT),
        "deepseek2.attention.kv_lora_rank": Value(U32, LATENT),
        "deepseek2.attention.key_length": Value(U32, LATENT + ROPE),
        "deepseek2.attention.value_length": Value(U32, LATENT),
        "deepseek2.attention.key_length_mla": Value(U32, PLAIN + ROPE),
        "deepseek2.attention.value_length_mla": Value(U32, VALUE),
        "deepseek2.rope.dimension_count": Value(U32, ROPE),
        "deepseek2.rope.freq_base": Value(F32, 10000.0),
        "deepseek2.leading_dense_block_count": Value(U32, layers),
        "deepseek2.expert_feed_forward_length": Value(U32, FFN),
        "deepseek2.expert_shared_count": Value(U32, 1),
    }
    for layer in range(layers):
        weights.add(f"blk.{layer}.attn_norm.weight", EMBD)
        weights.add(f"blk.{layer}.attn_q_a.weight", EMBD, LATENT)
        weights.add(f"blk.{layer}.attn_q_a_norm.weight", LATENT)
        weights.add(f"blk.{layer}.attn_q_b.weight", LATENT, HEADS * (PLAIN + ROPE))
        weights.add(f"blk.{layer}.attn_kv_a_mqa.weight", EMBD, LATENT + ROPE)
        weights.add(f"blk.{layer}.attn_kv_a_norm.weight", LATENT)
        weights.add(f"blk.{layer}.attn_k_b.weight", PLAIN, LATENT, HEADS)
        weights.add(f"blk.{layer}.attn_v_b.weight", LATENT, VALUE, HEADS)
        weights.add(f"blk.{layer}.attn_output.weight", HEADS * VALUE, EMBD)
        add_feed_forward(weights, layer)
    return TinyModel(metadata | words, weights.tensors)
