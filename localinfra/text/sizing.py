"""How long a text model's context is, what its cache keeps, and how many tokens its steps may have,
where its entry leaves that open. Arithmetic on its header and the memory there is."""

from collections.abc import Collection, Mapping

import msgspec

from localinfra.engine.backend import EXTRA_STATES, MOST_PADDING
from localinfra.llama.memories import ALWAYS_SEPARATE, CHUNKED, ONE_SEQUENCE
from localinfra.llama.settings import ContextSettings
from localinfra.models.entries import TextModelEntry
from localinfra.models.gguf.header import GgufHeader
from localinfra.models.kv_cache import (
    ROLLS_BACK,
    CacheShape,
    cache_bytes,
    recurrent_blocks,
    windows,
)
from localinfra.models.memory import (
    DEVICE_RESERVE_BYTES,
    UNKNOWN_CONTEXT,
    compute_bytes,
    default_context,
    layers_per_device,
    leaves_room,
)

# Tokens of context. A longer one is worth less than prefixes that can be shared in any part, where
# layers with a sliding window keep all tokens.
ENOUGH_CONTEXT = 32_768
MAX_ROLLBACK = 8  # tokens of a draft that recurrent layers can take back
ROLLBACK_SHARE = 1 / 16  # of the weights' size may be spent on it: small states, as LFM2's
ASKED_ROLLBACK = 3  # whatever it costs, where settings name who drafts

USUAL_BATCH = 512  # tokens of a step, llama.cpp's own default
# Kind of device → larger steps, which read prompts sooner there. The figures that say so are in
# docs/operations.md; for other GPUs there are none, or bad ones (ggml-org/llama.cpp #18725).
LARGER_BATCHES = {"cuda": (2048, 1024)}


def sized(
    entry: TextModelEntry, header: GgufHeader, place_bytes: int, gpus: list[int]
) -> ContextSettings:
    """Decides the length of the context where that is not set, and whether layers with a sliding
    window get a cell for each token of it. `gpus`: their free bytes."""

    def settings(length: int, *, full: bool) -> ContextSettings:
        usual = context_settings(entry, length, header.architecture)
        return msgspec.structs.replace(usual, full_window=full)

    def length(*, full: bool) -> int:
        return entry.context_length or default_context(
            header, place_bytes, lambda length: cache_shape(settings(length, full=full))
        )

    small = settings(length(full=False), full=False)
    can_be_full = any(windows(header)) and not any(recurrent_blocks(header))
    if not can_be_full or entry.separate_caches:
        return small
    full = settings(length(full=True), full=True)
    if header.architecture in CHUNKED:
        return full
    shape, of_window = cache_shape(full), cache_shape(small)
    costs_nothing = cache_bytes(header, shape) == cache_bytes(header, of_window)
    if entry.window_cache == "full" or costs_nothing:
        return full
    if entry.window_cache == "window":
        return small
    is_long = full.context_length >= min(small.context_length, ENOUGH_CONTEXT)
    of_window = msgspec.structs.replace(shape, full_window=False)
    layers = layers_per_device(header, gpus, shape)
    costs_layers = layers != layers_per_device(header, gpus, of_window)
    fits = is_long and leaves_room(header, place_bytes, shape) and not costs_layers
    return full if fits else small


def rollback(entry: TextModelEntry, header: GgufHeader, settings: ContextSettings) -> int:
    """The tokens of a draft that recurrent states can take back: none where drafts don't pay for
    the memory that this needs."""
    is_asked = entry.mtp or entry.draft is not None
    if not (entry.prompt_lookup or is_asked) or header.architecture not in ROLLS_BACK:
        return 0
    # llama.cpp asserts that a step is larger than what it keeps together.
    if settings.batch_size <= MAX_ROLLBACK + 1:
        return 0
    plain = cache_shape(settings)
    rolling = msgspec.structs.replace(plain, max_rollback=MAX_ROLLBACK)
    num_bytes = sum(cache_bytes(header, rolling)) - sum(cache_bytes(header, plain))
    if num_bytes <= ROLLBACK_SHARE * header.tensor_bytes:
        return MAX_ROLLBACK
    return ASKED_ROLLBACK if is_asked else 0


def usual_batch(entry: TextModelEntry) -> int:
    """Tokens of a step where nothing is known of the device."""
    return USUAL_BATCH if entry.batch_size == "auto" else entry.batch_size


def with_batch(
    entry: TextModelEntry,
    header: GgufHeader,
    settings: ContextSettings,
    gpus: Mapping[str, int],
) -> ContextSettings:
    """With the largest steps that pay on these GPUs and that their free bytes allow, unless the
    entry says how large they are. They may take half of what weights and cache leave. Where layers
    stay on the CPU anyway they may cost one more: each step copies those to the GPU, so prompts
    are read faster almost in proportion."""
    # Without flash attention all scores of a step are in memory.
    has_flash = entry.flash_attention is not False and header.architecture != "grok"
    if entry.batch_size != "auto" or not has_flash:
        return settings
    free, num_layers = list(gpus.values()), header.block_count + 1
    wanted, may_cost = entry.gpu_layers, 0
    if wanted == "auto":
        wanted = sum(layers_per_device(header, free, cache_shape(settings)))
        may_cost = int(0 < wanted < num_layers)
    times = 2 if wanted >= num_layers else 1
    for size in batches_for(gpus):
        larger = msgspec.structs.replace(settings, batch_size=size)
        reserve = device_reserve(header, larger, times)
        left = sum(layers_per_device(header, free, cache_shape(larger), reserve))
        if left > 0 and left >= min(wanted, num_layers) - may_cost:
            return larger
    return settings


def batches_for(gpus: Collection[str]) -> list[int]:
    """Larger steps that pay on each of these devices, the largest first."""
    pay = [set(LARGER_BATCHES.get(gpu.partition(":")[0], ())) for gpu in gpus]
    return sorted(set.intersection(*pay), reverse=True) if pay else []


def device_reserve(header: GgufHeader, settings: ContextSettings, times: int = 1) -> int:
    """Bytes of a GPU that layers and their cache must leave: more for steps beyond the usual size,
    so many times what they take."""
    shape = cache_shape(settings)
    usual = msgspec.structs.replace(shape, batch_size=min(shape.batch_size, USUAL_BATCH))
    more = compute_bytes(header, shape, 0) - compute_bytes(header, usual, 0)
    return DEVICE_RESERVE_BYTES + times * more


def batch_in_words(entry: TextModelEntry, settings: ContextSettings, gpus: Collection[str]) -> str:
    """`gpus`: those that have some of its layers."""
    size = f"steps of up to {settings.batch_size:,} tokens"
    if entry.batch_size != "auto":
        return f"{size}, as batch_size says"
    if settings.batch_size > USUAL_BATCH:
        return f"{size}: a GPU computes, and has memory for them"
    if batches_for(gpus) and entry.flash_attention is not False:
        return f"{size}: for larger ones, which are faster on this GPU, it has no memory"
    return size


def context_settings(entry: TextModelEntry, length: int, architecture: str = "") -> ContextSettings:
    """`length`: tokens of one sequence."""
    num_sequences = 1 if architecture in ONE_SEQUENCE else entry.sequences
    num_cells = max(entry.kv_cache_tokens or length, length)
    is_separate = entry.separate_caches or architecture in ALWAYS_SEPARATE
    if is_separate:
        num_cells = length * (num_sequences + 1)  # one more, for saving and restoring
    return ContextSettings(
        context_length=length,
        num_cells=num_cells,
        separate_caches=is_separate,
        num_sequences=num_sequences,
        batch_size=max(usual_batch(entry), num_sequences),
        threads=entry.threads,
        batch_threads=entry.batch_threads,
        flash_attention=None if entry.flash_attention == "auto" else entry.flash_attention,
        kv_type=entry.kv_type,
        device_sampling=None if entry.device_sampling == "auto" else entry.device_sampling,
        mtp=entry.mtp,
    )


def short_context(entry: TextModelEntry, header: GgufHeader) -> ContextSettings:
    """Settings to measure speed with, whatever memory there is."""
    trained = header.context_length or UNKNOWN_CONTEXT
    length = entry.context_length or min(trained, UNKNOWN_CONTEXT)
    return context_settings(entry, length, header.architecture)


def cache_shape(settings: ContextSettings) -> CacheShape:
    padding = 0 if settings.separate_caches else MOST_PADDING
    return CacheShape(
        num_cells=settings.num_cells + padding,
        num_sequences=settings.num_sequences + 1,  # one more, for saving and restoring
        batch_size=settings.batch_size,
        num_caches=settings.num_sequences + 1 if settings.separate_caches else 1,
        kv_type=settings.kv_type,
        num_extra_states=EXTRA_STATES,
        max_rollback=settings.max_rollback,
        full_window=settings.full_window,
        mtp=settings.mtp,
    )


def whole_state_bytes(header: GgufHeader, settings: ContextSettings) -> int:
    """What a copy of a sequence takes that fills its context: cells, and recurrent states."""
    shape = msgspec.structs.replace(
        cache_shape(settings),
        num_cells=settings.context_length,
        num_sequences=1,
        num_caches=1,
        num_extra_states=0,
    )
    return sum(cache_bytes(header, shape))
