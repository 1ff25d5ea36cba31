"""Small models with random weights of architectures whose memory is of a kind of its own.

They have many tensors: llama.cpp itself says which ones their metadata ask for.
"""

import ctypes
import tempfile
from collections.abc import Callable
from pathlib import Path

from models.tiny_gguf import (
    ARRAY,
    BOOL,
    EMBD,
    F32,
    FFN,
    HEADS,
    HEADS_KV,
    U32,
    U64,
    TinyModel,
    Value,
    Weights,
    common_metadata,
    gpt2_vocabulary,
)

from localinfra.llama.library import llama_cpp

CHUNK = 8192  # llama.cpp's constant for Llama 4
EXPERTS = {
    "expert_count": Value(U32, 2),
    "expert_used_count": Value(U32, 2),
    "expert_feed_forward_length": Value(U32, FFN),
    "expert_shared_count": Value(U32, 1),
    "expert_gating_func": Value(U32, 2),
    "leading_dense_block_count": Value(U32, 1),
}
# Latent vectors in the place of keys and values (MLA), found by an indexer.
LATENT = {
    "attention.q_lora_rank": Value(U32, 32),
    "attention.kv_lora_rank": Value(U32, 32),
    "attention.key_length": Value(U32, 48),
    "attention.value_length": Value(U32, 32),
    "attention.key_length_mla": Value(U32, 32),
    "attention.value_length_mla": Value(U32, 16),
    "rope.dimension_count": Value(U32, 16),
}
# Few keys, so that which ones are chosen matters.
INDEXER = {
    "attention.indexer.head_count": Value(U32, 16),
    "attention.indexer.key_length": Value(U32, 64),
    "attention.indexer.top_k": Value(U32, 16),
}
STREAMS = {
    "hyper_connection.count": Value(U32, 4),
    "hyper_connection.sinkhorn_iterations": Value(U32, 2),
    "hyper_connection.epsilon": Value(F32, 1e-6),
}


def completed(
    architecture: str, layers: int, keys: dict[str, Value], context_length: int = 512
) -> TinyModel:
    """A model with these metadata and all tensors that they ask for."""
    words = gpt2_vocabulary()
    own = {
        "feed_forward_length": Value(U32, FFN),
        "attention.head_count": Value(U32, HEADS),
        "attention.head_count_kv": Value(U32, HEADS_KV),
        "rope.freq_base": Value(F32, 10000.0),
    } | keys
    metadata = common_metadata(architecture, layers, context_length)
    metadata |= {f"{architecture}.{key}": value for key, value in own.items()}
    weights = Weights(0)
    for name, shape in tensors_of(TinyModel(metadata | words, [])).items():
        weights.add(name, *shape)
    return TinyModel(metadata | words, weights.tensors)


def tensors_of(model: TinyModel) -> dict[str, tuple[int, ...]]:
    """The tensors, with their shapes in GGUF's order, that llama.cpp wants of a file."""
    folder = Path(llama_cpp.__file__).parent / "lib"
    base = ctypes.CDLL(str(next(folder.glob("*ggml-base.*"))))
    base.gguf_init_from_file.restype, base.ggml_get_name.restype = ctypes.c_void_p, ctypes.c_char_p
    base.gguf_init_from_file.argtypes = [ctypes.c_char_p, GgufParams]
    base.gguf_free.argtypes = base.ggml_get_name.argtypes = [ctypes.c_void_p]
    base.ggml_n_dims.argtypes = [ctypes.c_void_p]
    found: dict[str, tuple[int, ...]] = {}  # one that several layers share is asked for again

    def note(tensor: int, _: object) -> None:
        # `ggml_tensor` begins with its type, its buffer and then its shape.
        shape = (ctypes.c_int64 * 4).from_address(tensor + 16)
        name = base.ggml_get_name(tensor).decode()
        found[name] = tuple(shape[: base.ggml_n_dims(tensor)])

    with tempfile.TemporaryDirectory() as place:
        path = model.write(Path(place) / "metadata.gguf")
        metadata = base.gguf_init_from_file(str(path).encode(), GgufParams(no_alloc=True))
    assert metadata
    init = llama_cpp.llama_model_init_from_user
    note_it = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(note)
    asked = init(metadata, note_it, None, llama_cpp.llama_model_default_params())
    base.gguf_free(metadata)
    assert asked, "llama.cpp refuses these metadata"
    llama_cpp.llama_model_free(asked)
    return found


class GgufParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p))


def tiny_llama4(context_length: int = 512) -> TinyModel:
    """Three of four layers attend to the current chunk of positions."""
    keys = EXPERTS | {
        "rope.dimension_count": Value(U32, EMBD // HEADS),
        "interleave_moe_layer_step": Value(U32, 2),
        "attention.temperature_scale": Value(F32, 0.1),
    }
    return completed("llama4", 4, keys, context_length)


def tiny_dots3note() -> TinyModel:
    """Latent vectors: a window in every second layer, an indexer in the others."""
    keys = (
        EXPERTS
        | LATENT
        | INDEXER
        | {
            "attention.kv_lora_rank_swa": Value(U32, 32),
            "attention.key_length_swa": Value(U32, 48),
            "attention.value_length_swa": Value(U32, 32),
            "attention.key_length_mla_swa": Value(U32, 32),
            "attention.value_length_mla_swa": Value(U32, 16),
            "attention.sliding_window": Value(U32, 16),
            "attention.sliding_window_pattern": Value(ARRAY, [0, 1], U32),
            "attention.indexer.types": Value(ARRAY, [1, 0], U32),
            "rope.freq_base_swa": Value(F32, 10000.0),
            "attention.head_count_kv": Value(U32, 1),
        }
    )
    return completed("dots3note", 2, keys)


def tiny_deepseek32() -> TinyModel:
    """Latent vectors and an indexer in every layer: two caches that are shared alike."""
    keys = EXPERTS | LATENT | INDEXER | {"attention.head_count_kv": Value(U32, 1)}
    return completed("deepseek32", 2, keys)


def tiny_minimax_m3() -> TinyModel:
    """Attention over the best blocks of four tokens and the last one."""
    keys = (
        EXPERTS
        | INDEXER
        | {
            "attention.key_length": Value(U32, 32),
            "attention.value_length": Value(U32, 32),
            "rope.dimension_count": Value(U32, 32),
            "attention.indexer.head_count": Value(U32, HEADS_KV),
            "attention.indexer.block_size": Value(U32, 4),
            "attention.indexer.local_blocks": Value(U32, 1),
        }
    )
    return completed("minimax-m3", 2, keys)


def tiny_deepseek4() -> TinyModel:
    """Layers with a window, some of which also look at compressed keys: of 4 and of 128 tokens."""
    keys = (
        EXPERTS
        | INDEXER
        | STREAMS
        | {
            "attention.head_count_kv": Value(U32, 1),
            "attention.key_length": Value(U32, 32),
            "attention.value_length": Value(U32, 32),
            "rope.dimension_count": Value(U32, 16),
            "attention.q_lora_rank": Value(U32, 32),
            "attention.sliding_window": Value(U32, 16),
            "attention.output_group_count": Value(U32, 2),
            "attention.output_lora_rank": Value(U32, 16),
            "attention.compress_ratios": Value(ARRAY, [0, 4, 128], U32),
            "attention.compress_rope_freq_base": Value(F32, 160000.0),
            "hash_layer_count": Value(U32, 0),
            "swiglu_clamp_exp": Value(F32, 10.0),
            "expert_weights_scale": Value(F32, 1.0),
            "expert_weights_norm": Value(BOOL, True),
            "expert_gating_func": Value(U32, 4),
        }
    )
    return completed("deepseek4", 3, keys)


def tiny_glm5_next() -> TinyModel:
    """Recurrent layers beside latent vectors, whose indexer pools four tokens."""
    keys = (
        EXPERTS
        | LATENT
        | INDEXER
        | STREAMS
        | {
            "attention.head_count_kv": Value(ARRAY, [1, 0], U32),
            "attention.key_length": Value(U32, 32),
            "rope.dimension_count": Value(U32, 0),
            "attention.indexer.kpool": Value(U32, 4),
            "attention.indexer.kpool_select_tail": Value(BOOL, True),
            "kda.head_dim": Value(U32, 16),
            "kda.gate_lower_bound": Value(F32, -5.0),
            "ssm.conv_kernel": Value(U32, 4),
        }
    )
    return completed("glm5-next", 2, keys)


def tiny_qwen4exp() -> TinyModel:
    """Recurrent layers, one of which looks n-grams up, beside attention over blocks of tokens."""
    heads, width = 4, EMBD // 4
    keys = (
        EXPERTS
        | INDEXER
        | STREAMS
        | {
            "expert_shared_feed_forward_length": Value(U32, FFN),
            "hyper_connection.low_rank": Value(U32, 8),
            "attention.key_length": Value(U32, 32),
            "attention.value_length": Value(U32, 32),
            "attention.compress_ratios": Value(ARRAY, [4, 4], U32),
            "rope.dimension_count": Value(U32, 32),
            "rope.dimension_sections": Value(ARRAY, [8, 4, 4, 0], U32),
            "full_attention_interval": Value(U32, 2),
            "ssm.inner_size": Value(U32, 64),
            "ssm.conv_kernel": Value(U32, 4),
            "ssm.state_size": Value(U32, 16),
            "ssm.time_step_rank": Value(U32, 4),
            "ssm.group_count": Value(U32, 2),
            "ple.layers": Value(ARRAY, [0], U32),
            "ple.ngram_size": Value(U32, 3),
            "ple.heads_per_ngram": Value(U32, 2),
            "ple.conv_kernel": Value(U32, 4),
            "ple.eos_token_id": Value(U32, 1),
            "embedding_length_per_layer_input": Value(U32, width),
            "ple.layer_multipliers": Value(ARRAY, [1, 3, 5], U64),
            "ple.head_offsets": Value(ARRAY, [100 * at for at in range(heads)], U64),
            "ple.head_vocab_sizes": Value(ARRAY, [100] * heads, U64),
        }
    )
    return completed("qwen4exp", 2, keys)


def tiny_lfm2_with_windows() -> TinyModel:
    keys = {
        "attention.head_count_kv": Value(ARRAY, [0, HEADS_KV, 0, HEADS_KV], U32),
        "attention.sliding_window": Value(U32, 16),
        "shortconv.l_cache": Value(U32, 3),
    }
    return completed("lfm2", 4, keys)


def tiny_plamo2(context_length: int = 512) -> TinyModel:
    keys = {
        "attention.head_count": Value(ARRAY, [HEADS, 0], U32),
        "attention.head_count_kv": Value(ARRAY, [HEADS_KV, 0], U32),
        "rope.dimension_count": Value(U32, EMBD // HEADS),
        "ssm.inner_size": Value(U32, 64),
        "ssm.conv_kernel": Value(U32, 4),
        "ssm.state_size": Value(U32, 16),
        "ssm.time_step_rank": Value(U32, 4),
        "ssm.group_count": Value(U32, 0),
    }
    return completed("plamo2", 2, keys, context_length)


OTHERS: list[Callable[[], TinyModel]] = [
    tiny_llama4, tiny_dots3note, tiny_deepseek4, tiny_glm5_next, tiny_qwen4exp,
    tiny_lfm2_with_windows, tiny_deepseek32, tiny_minimax_m3,
]  # fmt: skip
