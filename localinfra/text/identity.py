"""What the numbers that a model computes depend on, besides its input."""

from pathlib import Path

import msgspec

from localinfra import machine
from localinfra.engine.backend import MOST_PADDING
from localinfra.llama.settings import ContextSettings
from localinfra.models.entries import TextModelEntry
from localinfra.models.gguf.header import GgufHeader
from localinfra.models.gguf.parts import part_paths
from localinfra.optimize import store


def identity(
    entry: TextModelEntry, header: GgufHeader, settings: ContextSettings, *, is_offloaded: bool
) -> list[str]:
    """Everything that the numbers in KV cells depend on besides their tokens. Not the size of the
    cache, nor of steps on a GPU, which may follow from the memory that happens to be free: only
    whether the cache is beyond what the model was made for, as positions may be scaled then
    (llama_model_base::get_rope_factors)."""
    own = part_paths(Path(header.path), header.num_parts)
    files = [store.identify(path) for path in (*own, *(adapter.path for adapter in entry.lora))]
    most = header.number("rope.scaling.original_context_length", header.context_length)
    cells = settings.context_length if settings.separate_caches else settings.num_cells
    is_open = entry.batch_size == "auto" and is_offloaded
    counts = msgspec.structs.replace(
        settings,
        batch_size=0 if is_open else settings.batch_size,
        threads=None,
        batch_threads=None,
        num_sequences=1,
        context_length=0,
        mtp=False,
        device_sampling=None,
        num_cells=int(cells + MOST_PADDING > most),
    )
    facts = (files, [adapter.scale for adapter in entry.lora], counts, is_offloaded)
    peers = [repr(entry.rpc_servers)] if entry.rpc_servers else []
    return [
        machine.cpu(),
        machine.llama_build(),
        repr(facts),
        *peers,
    ]  # names of files may be any bytes
