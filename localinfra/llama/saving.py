"""What a slot holds ↔ bytes: llama.cpp's own form of it, and where its cells are."""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localinfra.llama.cells import CellMap
from localinfra.llama.library import llama_cpp
from localinfra.llama.places import Area, Places, areas_of, packed

# Without the cells of layers with full attention, which slots can share.
STATE_ONLY = llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY


def pointer_to(data: NDArray[np.uint8]) -> Any:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


def save(
    context: Any,
    slot: int,
    maps: list[CellMap],
    flags: int = 0,
    places: Places | None = None,
) -> NDArray[np.uint8]:
    """llama.cpp's state of the slot, followed by its areas and their number, if there are `places`,
    and by the positions and their number of each cell map.

    `context`: a pointer to a llama_context. Raises MemoryError.
    """
    tail = np.zeros(0, np.int32)
    if places is not None:
        tail = packed(places.areas(slot))
    for cells in maps:
        positions = cells.positions(slot)
        tail = np.concatenate((tail, np.array([*positions, len(positions)], np.int32)))
    size = llama_cpp.llama_state_seq_get_size_ext(context, slot, flags)
    data = np.empty(size + tail.nbytes, np.uint8)
    written = llama_cpp.llama_state_seq_get_data_ext(context, pointer_to(data), size, slot, flags)
    assert written == size, "the state's size is what was promised"
    data[size:] = tail.view(np.uint8)
    return data


def restore(
    context: Any,
    slot: int,
    data: NDArray[np.uint8],
    maps: list[CellMap],
    flags: int = 0,
    places: Places | None = None,
) -> bool:
    """Restores what `save` gave, reading it from the end. False if there is no room."""
    size = data.nbytes
    held = []
    for cells in reversed(maps):
        count = int(data[size - 4 : size].view(np.int32)[0])
        positions = data[size - 4 * (count + 1) : size - 4].view(np.int32).tolist()
        held.append((cells, positions))
        size -= 4 * (count + 1)
    areas: list[Area] = []
    if places is not None:
        areas, size = areas_of(data, size)
    if not llama_cpp.llama_state_seq_set_data_ext(context, pointer_to(data), size, slot, flags):
        return False
    for cells, positions in held:
        cells.restore(slot, positions)
    if places is not None:
        places.restore(slot, areas)
    return True
