"""Settings → llama_context_params."""

from localinfra.llama.library import llama_cpp
from localinfra.llama.model import Model
from localinfra.llama.settings import ContextSettings

# enum ggml_type of the KV cache types that llama.cpp has kernels for
KV_TYPES = {
    "f32": 0, "f16": 1, "bf16": 30, "q8_0": 8,
    "q4_0": 2, "q4_1": 3, "iq4_nl": 20, "q5_0": 6, "q5_1": 7,
}  # fmt: skip
FLASH_ATTENTION = {None: -1, False: 0, True: 1}  # enum llama_flash_attn_type; None is auto


def context_params(
    model: Model, settings: ContextSettings, num_cells: int, num_states: int
) -> llama_cpp.llama_context_params:
    """For so many cells and sequences. Threads, windows and outputs are left at llama.cpp's."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = num_cells
    params.n_batch = params.n_ubatch = settings.batch_size
    params.n_seq_max = num_states
    params.flash_attn_type = FLASH_ATTENTION[settings.flash_attention]
    params.type_k = params.type_v = KV_TYPES[settings.kv_type]
    # Slots share cells of prefixes. A step reads all cells once, as many bytes as if each sequence
    # had a cache of its own; only the products with cells of others are in vain.
    params.kv_unified = not settings.separate_caches
    params.n_rs_seq = settings.max_rollback if model.has_state else 0
    params.no_perf = True
    return params
