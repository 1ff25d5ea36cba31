"""Checks saved states of a slot that come from a file, before llama.cpp reads them.

llama.cpp compares types, row sizes and the number of layers with its own, and fails cleanly. Here
is checked what it takes on trust: that there is one cell for each position, and that every length
is within the data. Pure: no pointers.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from localinfra.llama.places import are_sound, areas_of, position

MAGIC = 0xAF143CD8  # io_magic in llama-context.cpp
MAX_LAYERS = 4096
CELL_EXTRAS = (0, 12)  # bytes: sizeof(llama_kv_cell_ext), with M-RoPE


class Unsound(Exception):
    pass


def is_sound(
    data: NDArray[np.uint8],
    start: int,
    stop: int,
    num_maps: int,
    *,
    has_values: bool = True,
    has_stub: bool = False,
    has_areas: bool = False,
) -> bool:
    """Whether `data` is formed like what `LlamaContext.save` gives for positions [start, stop) of
    slots without a recurrent state: cells, their areas with `has_areas`, and the positions of each
    of `num_maps` cell maps. With `has_stub`, the last ones are of a window with position 0 alone.
    Without `has_values`, cells have keys only.
    """
    places, stub = np.arange(start, stop), np.arange(1)
    size = data.nbytes
    for at in range(num_maps):
        expected = stub if has_stub and at == 0 else places
        size = before_tail(data, size, expected)
        if size < 0:
            return False
    if has_areas:
        areas, size = areas_of(data, size)
        if size < 0 or not are_sound(areas) or (areas and areas[-1].end > stop):
            return False
        places = np.array([position(areas, index) for index in range(start, stop)])
    kinds = [places, stub] if has_stub else [places]
    return any(_is_state(data[:size], kinds, extra, has_values) for extra in CELL_EXTRAS)


def before_tail(data: NDArray[np.uint8], size: int, places: NDArray[np.int64]) -> int:
    """Where the positions of a cell map begin that end at `size`; -1 if they are not these."""
    start = size - 4 * (len(places) + 1)
    return start if start >= 0 and _is_each_once(int32(data[start:size]), places) else -1


def _is_each_once(tail: NDArray[np.int32], places: NDArray[np.int64]) -> bool:
    """Whether the tail has each place once, in any order, and then their number."""
    return bool(tail[-1] == len(places) and np.array_equal(np.sort(tail[:-1]), places))


def _is_state(
    data: NDArray[np.uint8], kinds: list[NDArray[np.int64]], extra_bytes: int, has_values: bool
) -> bool:
    """`llama_context::state_seq_write_data`: a header, then one or several caches with the places
    of one of these kinds each, the last one of the last kind."""
    reader = StateReader(data)
    found = None
    try:
        require(reader.unpack("<Ii")[0] == MAGIC)
        while reader.num_left:
            if reader.next_count == 0:
                _check_states(reader, None)
                continue
            found = check_cache(reader, extra_bytes, has_values)
            require(any(np.array_equal(found, kind) for kind in kinds))
    except Unsound:
        return False
    return reader.at > 8 and (found is None or np.array_equal(found, kinds[-1]))


def is_sound_state(data: NDArray[np.uint8], stop: int, *, may_lag: bool = False) -> bool:
    """Whether `data` is formed like a recurrent state after the tokens before index `stop`. With
    `may_lag`, positions of pictures may have made its position smaller."""
    reader = StateReader(data)
    try:
        require(reader.unpack("<Ii")[0] == MAGIC)
        _check_states(reader, range(0 if may_lag else stop - 1, stop))
    except Unsound:
        return False
    return True


def is_sound_window(
    data: NDArray[np.uint8], stop: int, window: int, *, has_values: bool = True
) -> bool:
    """Whether `data` is formed like the cells of a window before index `stop`, and their positions.
    The oldest one is outside the next token's window, so it may be gone."""
    for start in (max(0, stop - window), max(0, stop + 1 - window)):
        places = np.arange(start, stop)
        size = before_tail(data, data.nbytes, places)
        if size >= 0:
            extras = (_is_state(data[:size], [places], e, has_values) for e in CELL_EXTRAS)
            return any(extras)
    return False


def _check_states(reader: "StateReader", last: range | None) -> None:
    """`llama_memory_recurrent::state_write`, up to the data's end: the state after one of these
    positions, or none. Raises Unsound."""
    num_layers = check_state_header(reader, last)
    num_rows = 0
    while reader.num_left:
        _, row_bytes = reader.unpack("<iQ")
        reader.take(row_bytes * (last is not None))
        num_rows += 1
    require(0 < num_rows <= 2 * num_layers)


def check_state_header(reader: "StateReader", last: range | None) -> int:
    """Returns the number of layers, which have two rows each if they have a state. Raises
    Unsound."""
    require(reader.unpack("<I") == (last is not None,))
    if last is not None:
        at, num_sequences = reader.unpack("<iI")
        require(at in last and num_sequences == 0)
    is_transposed, num_layers = reader.unpack("<II")
    require(not is_transposed and 0 < num_layers <= MAX_LAYERS)
    return num_layers


def check_cache(reader: "StateReader", extra_bytes: int, has_values: bool) -> NDArray[np.int32]:
    """`llama_kv_cache::state_write`, of a unified cache. Returns the positions of its cells, in
    ascending order. Raises Unsound."""
    num_streams, num_cells = reader.unpack("<II")
    require(num_streams == 1 and num_cells > 0)
    return check_cells(reader, num_cells, extra_bytes, has_values)


def check_cells(
    reader: "StateReader", num_cells: int, extra_bytes: int, has_values: bool
) -> NDArray[np.int32]:
    """The cells of one stream, of which there are some, likewise."""
    # Of each cell: position, number of sequences (1), extra, the sequence.
    cells = int32(reader.take(num_cells * (12 + extra_bytes))).reshape(num_cells, -1)
    require(bool((cells[:, 1] == 1).all()))
    is_transposed, num_layers = reader.unpack("<II")
    require(is_transposed <= 1 and num_layers <= MAX_LAYERS)
    for _ in range(num_layers):
        _, row_bytes = reader.unpack("<iQ")
        reader.take(num_cells * row_bytes)
    for _ in range(num_layers * has_values):
        if not is_transposed:
            _, row_bytes = reader.unpack("<iQ")
        else:
            _, element_bytes, width = reader.unpack("<iII")
            row_bytes = element_bytes * width
        reader.take(num_cells * row_bytes)
    return np.sort(cells[:, 0])


class StateReader:
    def __init__(self, data: NDArray[np.uint8]):
        self._data = data
        self.at = 0

    @property
    def num_left(self) -> int:
        return self._data.nbytes - self.at

    @property
    def next_count(self) -> int:
        return int.from_bytes(self._data[self.at : self.at + 4].tobytes(), "little")

    def take(self, num_bytes: int) -> NDArray[np.uint8]:
        require(num_bytes <= self.num_left)
        self.at += num_bytes
        return self._data[self.at - num_bytes : self.at]

    def unpack(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self.take(struct.calcsize(form)).tobytes())


def int32(data: NDArray[np.uint8]) -> NDArray[np.int32]:
    return np.frombuffer(data.tobytes(), np.int32)  # a copy, since it may not be aligned


def require(holds: bool) -> None:
    if not holds:
        raise Unsound
