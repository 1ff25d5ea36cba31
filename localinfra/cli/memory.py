"""Bytes in words, whether a model fits this machine, and what is shared of conversations there."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from localinfra import machine
from localinfra.config.settings import ServerSettings
from localinfra.footprint import CPU, NO_MEMORY, Room
from localinfra.kinds import free_memory
from localinfra.models import measured
from localinfra.models.budget import Budget
from localinfra.models.entries import TextModelEntry
from localinfra.models.gguf.reader import GgufHeader

if TYPE_CHECKING:
    from localinfra.text.placing import TextPlan

STATES = "shared up to saved states, in main memory (parked_prefixes_mib)"
WHOLE_STATES = f"{STATES}; each holds the whole conversation"


def fit(entry: TextModelEntry, path: Path, header: GgufHeader, settings: ServerSettings) -> str:
    """What a text model takes if no other is loaded, as measured before or else as expected, and
    whether and how that fits. The file need not be here."""
    return fit_of(entry, *planned(entry, path, header, settings))


def planned(
    entry: TextModelEntry, path: Path, header: GgufHeader, settings: ServerSettings
) -> tuple["TextPlan", Room]:
    """How it is loaded if no other model is, and the room that it has then."""
    from localinfra.text.placing import plan_text  # loads llama.cpp

    free = free_memory()
    budget = Budget.of(settings, lambda: free).room(NO_MEMORY)
    room = {device: min(size, free.get(device, size)) for device, size in budget.items()}
    return plan_text("", entry, path, header, room), room


def fit_of(entry: TextModelEntry, plan: "TextPlan", room: Room) -> str:
    takes = measured.footprints.find(measured.identity(entry, plan.shape)) or plan.expected
    return in_words(
        sum(takes.bytes_on.values()),
        plan.settings.context_length,
        plan.header.block_count + 1,
        plan.gpu_layers,
        {device: size for device, size in room.items() if device != CPU},
        room.get(CPU),
    )


def steps(entry: TextModelEntry, plan: "TextPlan") -> str:
    """How large its steps may be, and why."""
    from localinfra.text.sizing import batch_in_words

    return batch_in_words(entry, plan.settings, plan.gpus)


def sharing(entry: TextModelEntry, header: GgufHeader) -> str | None:
    """What conversations share of what was read, where that depends on the model: it has layers
    with a sliding window, or recurrent ones."""
    from localinfra.llama.memories import is_saved_whole
    from localinfra.models.kv_cache import has_cells, recurrent_blocks, windows
    from localinfra.text.placing import plan_text

    has_windows, has_state = any(windows(header)), any(recurrent_blocks(header))
    has_window = header.number("attention.sliding_window") > 0
    is_whole = is_saved_whole(header.architecture, is_hybrid=has_state, has_window=has_window)
    if is_whole or (entry.separate_caches and has_cells(header)):
        return by_whole_states(entry, header)
    if has_windows:
        plan = plan_text("", entry, Path(header.path), header, {})
        if plan.settings.full_window:
            return "shared in any part: layers with a sliding window keep all tokens"
        return f"{by_states(entry, header)}; full sharing takes more memory (window_cache)"
    return by_states(entry, header) if has_state else None


def by_states(entry: TextModelEntry, header: GgufHeader) -> str:
    """Whether there is room for the states without which nothing is shared."""
    from localinfra.models.kv_cache import saved_state_bytes
    from localinfra.text.loading import max_offloaded_bytes

    room, needed = max_offloaded_bytes(entry), saved_state_bytes(header, entry.kv_type)
    if needed <= room:
        return STATES
    return (
        f"not shared: a saved state takes {size(needed)}, parked_prefixes_mib leaves {size(room)}"
    )


def by_whole_states(entry: TextModelEntry, header: GgufHeader) -> str:
    """Likewise, where a state takes as much as the cache of its tokens."""
    from localinfra.text.loading import max_offloaded_bytes
    from localinfra.text.placing import plan_text
    from localinfra.text.sizing import whole_state_bytes

    settings = plan_text("", entry, Path(header.path), header, {}).settings
    room, needed = max_offloaded_bytes(entry), whole_state_bytes(header, settings)
    if needed <= room:
        return WHOLE_STATES
    takes = f"one of {settings.context_length:,} tokens takes about {size(needed)}"
    leaves = f"parked_prefixes_mib leaves {size(room)}"
    return f"{WHOLE_STATES}, but {takes}, {leaves}" if room else f"not shared: {leaves}"


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
