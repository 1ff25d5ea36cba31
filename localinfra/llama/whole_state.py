"""Checks states that have all of a slot, its cells included, before llama.cpp reads a file of them:
as `state.py` does, for other kinds of memory. Pure: no pointers.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from localinfra.llama.state import (
    CELL_EXTRAS,
    MAGIC,
    StateReader,
    Unsound,
    before_tail,
    check_cells,
    check_state_header,
    require,
)

# llama-kv-cache-dsv4.cpp
COMPRESSED = 0x34565344
NUM_COMPRESSED = 3  # caches of compressed keys, and states of what compresses them
TENSOR_FORM = "<iQQQ"  # type, width, rows, bytes of a row

ROW_FORMS = ("<iQ", "<Q")  # type and bytes; what n-grams need has bytes only
MAX_STREAMS = 256  # LLAMA_MAX_SEQ
MOST_PLACES = 10_000  # of sections and rows; hostile data could have any number


def is_sound_whole(
    data: NDArray[np.uint8], stop: int, num_maps: int, has_values: bool, *, may_lag: bool = False
) -> bool:
    """Whether `data` is formed like a state after the tokens before index `stop`, and the positions
    of `num_maps` cell maps. Without `has_values`, cells have keys only. With `may_lag`, positions
    of pictures may have made those of cells smaller."""
    size = data.nbytes
    for _ in range(num_maps):
        size = before_tail(data, size, np.arange(stop))
        if size < 0:
            return False
    reader = StateReader(data[:size])
    try:
        require(reader.unpack("<Ii")[0] == MAGIC and reader.num_left > 0)
        if reader.next_count == COMPRESSED:
            _check_compressed(reader, stop)
            return True
    except Unsound:
        return False
    start = reader.at
    for extra_bytes in CELL_EXTRAS:
        reader.at = start
        if _Sections(reader, stop, extra_bytes, has_values, may_lag).reach_the_end():
            return True
    return False


class _Sections:
    """Caches of cells and recurrent states, in any order. States don't say how many rows they have:
    they end where the rest is sound."""

    def __init__(
        self, reader: StateReader, stop: int, extra_bytes: int, has_values: bool, may_lag: bool
    ):
        self._reader = reader
        self._stop = stop
        self._extra_bytes = extra_bytes
        self._has_values = has_values
        self._may_lag = may_lag

    def reach_the_end(self) -> bool:
        """Whether the data consist of them from where the reader is."""
        reader = self._reader
        end = reader.at + reader.num_left
        seen = {(reader.at, False)}
        left = list(seen)
        while left and len(seen) < MOST_PLACES:
            at, is_in_rows = left.pop()
            if at == end:
                return True
            following = [*self._sections(at), *(self._rows(at) if is_in_rows else ())]
            left += [place for place in following if place not in seen]
            seen.update(following)
        return False

    def _sections(self, at: int) -> Iterator[tuple[int, bool]]:
        """Where a section that begins at byte `at` may end, or its rows begin."""
        for has_values in {self._has_values, False}:  # an indexer's cells have keys only
            with contextlib.suppress(Unsound):
                self._reader.at = at
                found = _check_streams(self._reader, self._extra_bytes, has_values)
                _check_positions(found, self._stop, may_lag=self._may_lag)
                yield self._reader.at, False
        with contextlib.suppress(Unsound):
            self._reader.at = at
            first = 0 if self._may_lag else self._stop - 1
            check_state_header(self._reader, range(first, self._stop))
            yield self._reader.at, True

    def _rows(self, at: int) -> Iterator[tuple[int, bool]]:
        """Where a row of a state that begins there may end."""
        for form in ROW_FORMS:
            with contextlib.suppress(Unsound):
                self._reader.at = at
                *_, row_bytes = self._reader.unpack(form)
                self._reader.take(row_bytes)
                yield self._reader.at, True


def _check_streams(reader: StateReader, extra_bytes: int, has_values: bool) -> NDArray[np.int32]:
    """`llama_kv_cache::state_write`: one of the streams has cells, those of the slot. Returns their
    positions, in ascending order. Raises Unsound."""
    [num_streams] = reader.unpack("<I")
    require(0 < num_streams <= MAX_STREAMS)
    found = []
    for _ in range(num_streams):
        [count] = reader.unpack("<I")
        if count:
            found.append(check_cells(reader, count, extra_bytes, has_values))
    require(len(found) == 1)
    return found[0]


def _check_positions(found: NDArray[np.int32], stop: int, *, may_lag: bool = False) -> None:
    """Whether these are the last positions before `stop`: a window lacks earlier ones. Raises
    Unsound."""
    require(0 < len(found) <= stop)
    if may_lag:
        require(found[0] >= 0 and found[-1] < stop)
    else:
        require(np.array_equal(found, np.arange(stop - len(found), stop)))


def _check_compressed(reader: StateReader, stop: int) -> None:
    """`llama_kv_cache_dsv4::state_write`: recent cells, compressed ones, and what is not yet
    compressed. Types, widths and numbers of layers are compared by llama.cpp. Raises Unsound."""
    _, _, mode = reader.unpack("<III")
    require(mode == 0)
    for _ in range(2):  # without a window, and with one
        _check_positions(_check_streams(reader, 0, has_values=False), stop)
    for _ in range(NUM_COMPRESSED):
        _, num_rows, num_streams, num_layers = reader.unpack("<IIII")
        _check_tensors(reader, num_streams, num_layers, 1, num_rows)
    for _ in range(NUM_COMPRESSED):
        _, _, num_rows, _, num_streams, num_layers = reader.unpack("<IIIIII")
        _check_tensors(reader, num_streams, num_layers, 2, num_rows)
    require(reader.num_left == 0)


def _check_tensors(
    reader: StateReader, num_streams: int, num_layers: int, per_layer: int, num_rows: int
) -> None:
    """Each layer's number, and tensors of so many rows. Raises Unsound."""
    require(num_streams == 1)
    for _ in range(num_layers):
        reader.unpack("<I")
        for _ in range(per_layer):
            _, _, rows, row_bytes = reader.unpack(TENSOR_FORM)
            require(rows == num_rows)
            reader.take(rows * row_bytes)
