"""How many bytes a text model needs, how many of its layers fit on a device, and how long a context
leaves room for others.

Arithmetic on a header's numbers: queries no device, allocates nothing. The results are estimates; a
load that fails all the same is retried smaller.
"""

from collections.abc import Callable, Sequence

from localinfra.models.gguf.header import GgufHeader
from localinfra.models.kv_cache import CacheShape, cache_bytes, has_cells

# For the backend's context and a batch's compute buffer, beside weights and KV cache. Estimated,
# not measured: 0.3 to 0.5 GiB for a CUDA context, 0.25 GiB for 512 rows of logits (4 bytes each,
# 128k tokens), and as much for activations.
DEVICE_RESERVE_BYTES = 1 << 30

MIN_CONTEXT = 4096  # tokens; less is too little for the conversations people have
UNKNOWN_CONTEXT = 8192  # if the file doesn't say what the model was trained for
CACHE_SHARE = 0.5  # of the memory beside the weights: the rest is for other models


def layers_per_device(
    header: GgufHeader,
    free_bytes: Sequence[int],
    shape: CacheShape,
    reserve_bytes: int = DEVICE_RESERVE_BYTES,
) -> list[int]:
    """The most layers whose weights and KV cache fit into each device's free memory; their sum is
    `n_gpu_layers`.

    Counts as llama.cpp does (llama_model_base::load_tensors): the output layer leaves the CPU
    first, then the last blocks, so 0 is none and block_count + 1 is all. More free memory never
    gives fewer layers.

    Pass it as `tensor_split`: llama.cpp's own split goes by free memory alone, and may give a
    device one layer more than it has room for.
    """
    rooms = [max(free - reserve_bytes, 0) for free in free_bytes]
    sizes = layer_sizes(header, shape)
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


def smaller_context(length: int, trained: int) -> int:
    """Tokens to try after a load with `length` ran out of memory; the same if it can't be less."""
    return max(min(MIN_CONTEXT, trained, length), length // 2)


def default_context(
    header: GgufHeader, room_bytes: int, shape_of: Callable[[int], CacheShape]
) -> int:
    """Tokens of context for a model whose settings don't say: what it was trained for if that
    leaves other models half of the room beside the weights, else the largest power of two that
    does, but no less than `MIN_CONTEXT`. `room_bytes` is where the model will be."""
    trained = header.context_length or UNKNOWN_CONTEXT
    length = trained
    while length > MIN_CONTEXT and not leaves_room(header, room_bytes, shape_of(length)):
        length = 1 << (length - 1).bit_length() - 1
    return max(length, min(trained, MIN_CONTEXT))


def leaves_room(header: GgufHeader, room_bytes: int, shape: CacheShape) -> bool:
    """Whether the cache leaves other models their share of the room beside the weights."""
    room = CACHE_SHARE * (room_bytes - header.tensor_bytes)
    return sum(cache_bytes(header, shape)) <= room


def compute_bytes(
    header: GgufHeader, shape: CacheShape, num_outputs: int, *, samples: bool = False
) -> int:
    """Buffers beside weights and cache: the logits of a step twice, its masks, its activations,
    which each expert of a token has for itself. With flash attention, which needs no matrix of all
    scores. `samples`: on the device, which takes room for as much again."""
    logits = 2 * 4 * num_outputs * header.vocab_size * (1 + samples)
    mask = 2 * shape.cells_of_each * shape.batch_size * (1 + shape.full_window)
    if not has_cells(header):
        mask = 0
    width, inner = header.embedding_length, header.number("feed_forward_length")
    of_expert = header.number("expert_feed_forward_length", inner)
    routed = header.number("expert_used_count") * (width + of_expert)
    return logits + mask + 4 * shape.batch_size * max(4 * width, 4 * inner, 2 * routed)


def layer_sizes(header: GgufHeader, shape: CacheShape) -> list[int]:
    """Bytes of each block with its cache, then of the output layer.

    The input embedding stays on the CPU; a model without an output matrix copies it for its output.
    """
    cache = cache_bytes(header, shape)
    blocks = [size + own for size, own in zip(header.layer_bytes, cache, strict=True)]
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
