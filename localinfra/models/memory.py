"""How many bytes a model needs, and how many of its layers fit on a device.

Arithmetic on a header's numbers: queries no device, allocates nothing. The results are estimates; a
load that fails all the same is retried with `fewer_layers`.
"""

from collections.abc import Sequence

from localinfra.models.gguf.header import GgufHeader
from localinfra.models.gguf.reader import BLOCKS

# For the backend's context and a batch's compute buffer, beside weights and KV cache. Estimated,
# not measured: 0.3 to 0.5 GiB for a CUDA context, 0.25 GiB for 512 rows of logits (4 bytes each,
# 128k tokens), and as much for activations.
DEVICE_RESERVE_BYTES = 1 << 30


def kv_bytes_per_layer(header: GgufHeader, kv_type: str) -> list[int]:
    """Bytes one token adds to the KV cache of each block, rounded up.

    Ignores sliding windows: their layers count as if they kept every token. Blocks with a recurrent
    state and no key heads count 0, since the state does not grow with the text.
    """
    key = max(header.key_length, header.number("attention.key_length_swa"))
    value = max(header.value_length, header.number("attention.value_length_swa"))
    [one_number] = [size / weights for name, weights, size in BLOCKS.values() if name == kv_type]
    return [-int(-heads * (key + value) * one_number // 1) for heads in header.head_counts_kv]


def layers_per_device(
    header: GgufHeader,
    free_bytes: Sequence[int],
    n_ctx: int,
    kv_type: str,
    reserve_bytes: int = DEVICE_RESERVE_BYTES,
) -> list[int]:
    """The most layers whose weights and KV cache fit into each device's free memory; their sum is
    `n_gpu_layers`.

    Counts as llama.cpp does (llama_model_base::load_tensors): the output layer leaves the CPU
    first, then the last blocks, so 0 is none and block_count + 1 is all. `n_ctx` is the whole
    cache in tokens, all sequences together. More free memory never gives fewer layers.

    Pass it as `tensor_split`: llama.cpp's own split goes by free memory alone, and may give a
    device one layer more than it has room for.
    """
    rooms = [max(free - reserve_bytes, 0) for free in free_bytes]
    sizes = _layer_sizes(header, n_ctx, kv_type)
    fitting = [0] * len(rooms)
    for count in range(1, len(sizes) + 1):
        counts = _fill(sizes[-count:], rooms)
        if sum(counts) < count:
            break
        fitting = counts
    return fitting


def fewer_layers(n: int) -> int:
    """Layers to try after a load with `n` ran out of memory: three quarters, down to none."""
    return n * 3 // 4


def _layer_sizes(header: GgufHeader, n_ctx: int, kv_type: str) -> list[int]:
    """Bytes of each block with its cache, then of the output layer.

    The input embedding stays on the CPU; a model without an output matrix copies it for its output.
    """
    cache = kv_bytes_per_layer(header, kv_type)
    blocks = [size + n_ctx * kv for size, kv in zip(header.layer_bytes, cache, strict=True)]
    outside = {tensor.name: tensor.size_bytes for tensor in header.tensors if tensor.layer is None}
    if "output.weight" in outside:
        outside.pop("token_embd.weight", 0)
    return [*blocks, sum(outside.values())]


def _fill(sizes: Sequence[int], rooms: Sequence[int]) -> list[int]:
    """Number of layers that go into each room, both taken in order."""
    counts, place = [0] * len(rooms), 0
    for device, room in enumerate(rooms):
        while place < len(sizes) and sizes[place] <= room:
            room -= sizes[place]
            counts[device] += 1
            place += 1
    return counts
