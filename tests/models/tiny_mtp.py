"""Small models with random weights and a last layer for multi-token prediction (MTP)."""

from collections.abc import Iterable

import numpy as np
from models.tiny_gguf import (
    EMBD,
    F32,
    FFN,
    HEADS,
    HEADS_KV,
    STRING,
    U32,
    TinyModel,
    TinyTensor,
    Value,
    Weights,
    add_attention,
    add_feed_forward,
    common_metadata,
    gpt2_vocabulary,
    start_weights,
)
from models.tiny_hybrids import tiny_qwen35

EXPERTS = 2
EXPERT_FFN = 32


def tiny_glm4(layers: int = 2, seed: int = 0) -> TinyModel:
    """Full attention, and experts in the MTP layer."""
    words = gpt2_vocabulary()
    weights = start_weights(words, seed)
    metadata = common_metadata("glm4moe", layers + 1, 512) | {
        "glm4moe.nextn_predict_layers": Value(U32, 1),
        "glm4moe.feed_forward_length": Value(U32, FFN),
        "glm4moe.attention.head_count": Value(U32, HEADS),
        "glm4moe.attention.head_count_kv": Value(U32, HEADS_KV),
        "glm4moe.rope.dimension_count": Value(U32, EMBD // HEADS),
        "glm4moe.rope.freq_base": Value(F32, 10000.0),
        "glm4moe.expert_count": Value(U32, EXPERTS),
        "glm4moe.expert_used_count": Value(U32, 1),
        "glm4moe.expert_feed_forward_length": Value(U32, EXPERT_FFN),
        "glm4moe.expert_shared_count": Value(U32, 1),
        "glm4moe.leading_dense_block_count": Value(U32, layers),
    }
    for layer in range(layers + 1):
        add_attention(weights, layer, HEADS, HEADS_KV, EMBD // HEADS)
        weights.add(f"blk.{layer}.post_attention_norm.weight", EMBD)
    for layer in range(layers):
        add_feed_forward(weights, layer)
    _add_experts(weights, layers)
    _add_prediction(weights, layers)
    tensors = [each for each in weights.tensors if not each.name.endswith("ffn_norm.weight")]
    return TinyModel(metadata | words, tensors)


def tiny_qwen35_mtp(layers: int = 4, seed: int = 0) -> TinyModel:
    """A hybrid, whose MTP layer has attention."""
    model = tiny_qwen35(layers=layers, seed=seed)
    model.metadata["qwen35.block_count"] = Value(U32, layers + 1)
    model.metadata["qwen35.nextn_predict_layers"] = Value(U32, 1)
    layer_of_attention = "blk.3."
    for tensor in list(model.tensors):
        if tensor.name.startswith(layer_of_attention):
            name = tensor.name.replace(layer_of_attention, f"blk.{layers}.")
            model.tensors.append(TinyTensor(name, tensor.shape, tensor.data))
    weights = Weights(seed + 1)
    _add_prediction(weights, layers)
    model.tensors += weights.tensors
    return model


def tiny_qwen35_moe_mtp(layers: int = 4, seed: int = 0) -> TinyModel:
    """The same with experts in each layer."""
    model = tiny_qwen35_mtp(layers, seed)
    metadata = {
        key.replace("qwen35.", "qwen35moe."): value for key, value in model.metadata.items()
    } | {
        "general.architecture": Value(STRING, "qwen35moe"),
        "qwen35moe.expert_count": Value(U32, EXPERTS),
        "qwen35moe.expert_used_count": Value(U32, 1),
        "qwen35moe.expert_feed_forward_length": Value(U32, EXPERT_FFN),
        "qwen35moe.expert_shared_feed_forward_length": Value(U32, EXPERT_FFN),
    }
    tensors = [each for each in model.tensors if ".ffn_" not in each.name]
    weights = Weights(seed + 2)
    for layer in range(layers + 1):
        _add_experts(weights, layer)
        weights.add(f"blk.{layer}.ffn_gate_inp_shexp.weight", EMBD)
    tensors += [each for each in weights.tensors if "exp_probs_b" not in each.name]
    return TinyModel(metadata, tensors)


def often_right(model: TinyModel) -> TinyModel:
    """The model with layers that add little: all, and the MTP layer, say mostly what comes after
    the last token alone."""
    for tensor in model.tensors:
        if tensor.name.endswith("nextn.eh_proj.weight"):
            hidden = np.frombuffer(tensor.data, "<f4").reshape(EMBD, 2 * EMBD)[:, EMBD:]
            matrix = np.concatenate((np.eye(EMBD), 0.05 * hidden), axis=1)
            tensor.data = matrix.astype("<f4").tobytes()
        elif _ends(tensor.name, ("attn_output", "ssm_out", "ffn_down", "down_exps", "down_shexp")):
            tensor.data = (0.1 * np.frombuffer(tensor.data, "<f4")).astype("<f4").tobytes()
    return model


def _ends(name: str, parts: Iterable[str]) -> bool:
    return any(name.endswith(f"{part}.weight") for part in parts)


def _add_experts(weights: Weights, layer: int) -> None:
    weights.add(f"blk.{layer}.ffn_gate_inp.weight", EMBD, EXPERTS)
    weights.add(f"blk.{layer}.exp_probs_b.bias", EXPERTS)
    weights.add(f"blk.{layer}.ffn_gate_exps.weight", EMBD, EXPERT_FFN, EXPERTS)
    weights.add(f"blk.{layer}.ffn_up_exps.weight", EMBD, EXPERT_FFN, EXPERTS)
    weights.add(f"blk.{layer}.ffn_down_exps.weight", EXPERT_FFN, EMBD, EXPERTS)
    weights.add(f"blk.{layer}.ffn_gate_shexp.weight", EMBD, EXPERT_FFN)
    weights.add(f"blk.{layer}.ffn_up_shexp.weight", EMBD, EXPERT_FFN)
    weights.add(f"blk.{layer}.ffn_down_shexp.weight", EXPERT_FFN, EMBD)


def _add_prediction(weights: Weights, layer: int) -> None:
    weights.add(f"blk.{layer}.nextn.eh_proj.weight", 2 * EMBD, EMBD)
    weights.add(f"blk.{layer}.nextn.enorm.weight", EMBD)
    weights.add(f"blk.{layer}.nextn.hnorm.weight", EMBD)
