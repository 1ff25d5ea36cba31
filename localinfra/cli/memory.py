"""Bytes in words, and whether a model fits this machine."""

from collections.abc import Mapping

from localinfra import machine
from localinfra.models.gguf.reader import GgufHeader
from localinfra.models.kv_cache import CacheShape, cache_bytes
from localinfra.models.memory import layers_per_device

SHOWN_CONTEXT = 8192  # tokens for which the memory is estimated
RESERVE_BYTES = 512 << 20  # of a process beside weights and cache


def fit(header: GgufHeader, num_bytes: int) -> str:
    """Of a model that may be served with any settings: an estimate. `num_bytes`: of its files."""
    from localinfra.llama.build_info import free_memory  # loads llama.cpp

    tokens = min(header.context_length or SHOWN_CONTEXT, SHOWN_CONTEXT)
    shape = CacheShape(num_cells=tokens, num_sequences=1, batch_size=512, kv_type="f16")
    gpus = free_memory()
    return in_words(
        num_bytes + sum(cache_bytes(header, shape)) + RESERVE_BYTES,
        tokens,
        header.block_count + 1,
        sum(layers_per_device(header, list(gpus.values()), shape)),
        gpus,
        machine.available_memory(),
    )


def in_words(
    need: int, tokens: int, layers: int, on_gpus: int, gpus: Mapping[str, int], free: int | None
) -> str:
    """`need` is bytes in all, `free` those of main memory."""
    what = f"about {size(need)} with {tokens:,} tokens of context"
    if gpus and on_gpus >= layers:
        return f"{what}: all {layers} layers fit the GPU"
    if gpus and on_gpus:
        return f"{what}: {on_gpus} of {layers} layers fit the GPU, the CPU computes the others"
    if free is None:
        return f"{what}, computed on the CPU"
    if need <= free:
        return f"{what}, computed on the CPU; {size(free)} are free"
    return f"{what}, but {size(free)} are free: it may be very slow or fail; try a smaller QUANT"


def weights_fit(num_bytes: int) -> str:
    """Of a folder, or a file whose header can't be read yet."""
    free = machine.available_memory()
    rest = f"; {size(free)} of main memory are free" if free is not None else ""
    return f"about {size(num_bytes)} for the weights{rest}"


def size(count: int) -> str:
    """4.9 GB, 120 MB, 3 kB."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if count >= factor:
            return f"{count / factor:.{1 if count < 100 * factor else 0}f} {unit}"
    return f"{count / 1000:.0f} kB" if count >= 1000 else f"{count} B"
