"""How many bytes a model needs where, and how many of its layers a device can hold.

Arithmetic on a header's numbers: asks no device, allocates nothing. The answers are estimates to begin
with; a load that fails all the same is repeated with `fewer_layers`.
"""

from collections.abc import Iterable, Sequence

from localinfra.models.gguf_header import GgufHeader

# Bytes one stored number takes, by the name of the KV cache's type (ggml's block bytes / weights).
KV_TYPES = {
    **{"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32},
    **{"q4_1": 20 / 32, "q4_0": 18 / 32, "iq4_nl": 18 / 32},
}

# What one device needs beside weights and KV cache: the backend's own context and the compute buffer of
# a batch. An estimate, not a measurement: a CUDA context takes about 0.3 to 0.5 GiB, the buffer of a
# 512-token batch another 0.3 GiB for a 128k vocabulary. Callers with better numbers pass their own.
DEVICE_RESERVE_BYTES = 1 << 30


def kv_bytes_per_layer(header: GgufHeader, type_k: str = "f16", type_v: str = "f16") -> list[int]:
    """Bytes one token adds to the KV cache of each block, rounded up.

    A sliding window is ignored, so windowed layers are counted as if they kept every token. Blocks with
    a recurrent state have no key heads and count 0; their state's size does not grow with the text.

    Raises:
        KeyError: a type that is not in KV_TYPES.
    """
    key = max(header.key_length, header.number("attention.key_length_swa"))
    value = max(header.value_length, header.number("attention.value_length_swa"))
    one_head = key * KV_TYPES[type_k] + value * KV_TYPES[type_v]
    return [-int(-heads * one_head // 1) for heads in header.head_counts_kv]


def kv_bytes_per_token(header: GgufHeader, type_k: str = "f16", type_v: str = "f16") -> int:
    """Bytes one token takes in the whole KV cache."""
    return sum(kv_bytes_per_layer(header, type_k, type_v))


def fit_gpu_layers(
    header: GgufHeader,
    free_bytes: Sequence[int],
    n_ctx: int,
    kv_type: str = "f16",
    reserve_bytes: int = DEVICE_RESERVE_BYTES,
) -> int:
    """The largest `n_gpu_layers` whose weights and KV cache fit into the devices' free memory.

    Counts as llama.cpp does: the last blocks go first, and the output layer is one more, the first to
    go (llama_model_base::load_tensors). So 0 is none and block_count + 1 is all. Layers are laid onto
    the devices in order and never split; llama.cpp divides them by free memory, which comes out the same
    or more even. `n_ctx` is the whole cache in tokens, all sequences together.
    """
    sizes = _layer_sizes(header, n_ctx, kv_type)
    rooms = [max(free - reserve_bytes, 0) for free in free_bytes]
    best = 0
    for count in range(1, len(sizes) + 1):
        if not _fits(sizes[len(sizes) - count :], rooms):
            break
        best = count
    return best


def fewer_layers(n: int) -> int:
    """What to try after a load with `n` layers ran out of memory: three quarters, down to none."""
    return n * 3 // 4


def _layer_sizes(header: GgufHeader, n_ctx: int, kv_type: str) -> list[int]:
    """Bytes of each block with its cache, then of the output layer.

    The output layer counts all weights outside of blocks: a model without an output matrix uses its
    token embedding for it, and then holds it twice.
    """
    cache = kv_bytes_per_layer(header, kv_type, kv_type)
    blocks = [size + n_ctx * kv for size, kv in zip(header.layer_bytes, cache, strict=True)]
    return [*blocks, header.other_bytes]


def _fits(sizes: Iterable[int], rooms: Sequence[int]) -> bool:
    """Whether the layers, in this order, fit into the rooms, in this order."""
    ...
