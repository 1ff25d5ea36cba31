"""Checks saved states of a slot that come from a file, before llama.cpp reads them.

llama.cpp compares types, row sizes and the number of layers with its own, and fails cleanly. Here
is checked what it takes on trust: that there is one cell for each position, and that every length
is within the data. Pure: no pointers.
"""

import itertools
import struct

import numpy as np
from numpy.typing import NDArray

from localinfra.llama.places import are_sound, areas_of, position

MAGIC = 0xAF143CD8  # io_magic in llama-context.cpp
MAX_LAYERS = 4096
CELL_EXTRAS = (0, 12)  # bytes: sizeof(llama_kv_cell_ext), with M-RoPE


class _Unsound(Exception):
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
        size = _before_tail(data, size, expected)
        if size < 0:
            return False
    if has_areas:
        areas, size = areas_of(data, size)
        if size < 0 or not are_sound(areas) or (areas and areas[-1].end > stop):
            return False
        places = np.array([position(areas, index) for index in range(start, stop)])
    caches = [places, stub] if has_stub else None
    return any(_is_state(data[:size], places, extra, has_values, caches) for extra in CELL_EXTRAS)


def _before_tail(data: NDArray[np.uint8], size: int, places: NDArray[np.int64]) -> int:
    """Where the positions of a cell map begin that end at `size`; -1 if they are not these."""
    start = size - 4 * (len(places) + 1)
    return start if start >= 0 and _is_each_once(_int32(data[start:size]), places) else -1


def _is_each_once(tail: NDArray[np.int32], places: NDArray[np.int64]) -> bool:
    """Whether the tail has each place once, in any order, and then their number."""
    return bool(tail[-1] == len(places) and np.array_equal(np.sort(tail[:-1]), places))


def _is_state(
    data: NDArray[np.uint8],
    places: NDArray[np.int64],
    extra_bytes: int,
    has_values: bool,
    caches: list[NDArray[np.int64]] | None = None,
) -> bool:
    """`llama_context::state_seq_write_data`: a header, then one or several caches, with these
    places each, or with those of `caches`."""
    reader = _Reader(data)
    expected = iter(caches) if caches is not None else itertools.repeat(places)
    try:
        if reader.unpack("<Ii")[0] != MAGIC:
            return False
        while reader.num_left:
            if reader.next_count == 0:
                _check_states(reader, None)
                continue
            cache = next(expected, None)
            _require(cache is not None)
            assert cache is not None
            _check_cache(reader, cache, extra_bytes, has_values)
    except _Unsound:
        return False
    return reader.at > 8 and (caches is None or next(expected, None) is None)


def is_sound_state(
    data: NDArray[np.uint8], stop: int, window: int = 0, *, may_lag: bool = False
) -> bool:
    """Whether `data` is formed like what `LlamaContext.save_state` gives after the tokens before
    index `stop`: a recurrent state, or the cells of a `window`. With `may_lag`, positions of
    pictures may have made its position smaller."""
    if window:
        return _is_window(data, stop, window)
    reader = _Reader(data)
    try:
        if reader.unpack("<Ii")[0] != MAGIC:
            return False
        _check_states(reader, range(0 if may_lag else stop - 1, stop))
    except _Unsound:
        return False
    return True


def _is_window(data: NDArray[np.uint8], position: int, window: int) -> bool:
    """The oldest cell is outside the next token's window, so it may be gone."""
    for start in (max(0, position - window), max(0, position + 1 - window)):
        places = np.arange(start, position)
        size = _before_tail(data, data.nbytes, places)
        if size >= 0:
            return any(_is_state(data[:size], places, e, True, [places]) for e in CELL_EXTRAS)
    return False


def _check_states(reader: "_Reader", last: range | None) -> None:
    """`llama_memory_recurrent::state_write`, up to the data's end: the state after one of these
    positions, or none. Raises _Unsound."""
    has_one = last is not None
    _require(reader.unpack("<I") == (has_one,))
    if last is not None:
        at, num_sequences = reader.unpack("<iI")
        _require(at in last and num_sequences == 0)
    is_transposed, num_layers = reader.unpack("<II")
    _require(not is_transposed and 0 < num_layers <= MAX_LAYERS)
    num_rows = 0
    while reader.num_left:
        _, row_bytes = reader.unpack("<iQ")
        reader.take(row_bytes * has_one)
        num_rows += 1
    _require(0 < num_rows <= 2 * num_layers)


def _check_cache(
    reader: "_Reader", places: NDArray[np.int64], extra_bytes: int, has_values: bool
) -> None:
    """`llama_kv_cache::state_write`, of a unified cache. Raises _Unsound."""
    num_streams, num_cells = reader.unpack("<II")
    _require(num_streams == 1 and num_cells == len(places))
    # Of each cell: position, number of sequences (1), extra, the sequence.
    cells = _int32(reader.take(num_cells * (12 + extra_bytes))).reshape(num_cells, -1)
    _require(np.array_equal(np.sort(cells[:, 0]), places) and bool((cells[:, 1] == 1).all()))
    is_transposed, num_layers = reader.unpack("<II")
    _require(is_transposed <= 1 and num_layers <= MAX_LAYERS)
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


class _Reader:
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
        _require(num_bytes <= self.num_left)
        self.at += num_bytes
        return self._data[self.at - num_bytes : self.at]

    def unpack(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self.take(struct.calcsize(form)).tobytes())


def _int32(data: NDArray[np.uint8]) -> NDArray[np.int32]:
    return np.frombuffer(data.tobytes(), np.int32)  # a copy, since it may not be aligned


def _require(holds: bool) -> None:
    if not holds:
        raise _Unsound
