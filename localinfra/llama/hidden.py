"""The last hidden states of each slot, for the layers that draft from them. Pure: no pointers."""

from collections.abc import Iterator
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from localinfra.engine.backend import Batch

# Tokens of a slot. Layers that draft may read a prompt late, or never: then they see no more of it.
# 16 MiB per slot with rows of 4,096 numbers.
KEPT = 1024


class HiddenStates:
    """Rows by slot and position: in each slot those of [start, stop), the last `kept` at most."""

    def __init__(self, num_slots: int, width: int, kept: int = KEPT):
        self._rows = np.zeros((num_slots, kept, width), np.float32)  # rings
        self._kept = kept
        self._spans = [(0, 0)] * num_slots

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self._rows.shape[2]

    def put(self, batch: Batch, rows: NDArray[np.float32]) -> None:
        """Keeps the rows [num_tokens, width] of a batch that was decoded."""
        for slot, part in rows_by_slot(batch):
            if slot < len(self._spans):
                self._put(slot, batch.positions[part.start], rows[part])

    def _put(self, slot: int, position: int, rows: NDArray[np.float32]) -> None:
        start, stop = self._spans[slot]
        if position != stop:
            start = position
        stop = position + len(rows)
        start = max(start, stop - self._kept)
        rows = rows[-self._kept :]
        self._rows[slot, np.arange(stop - len(rows), stop) % self._kept] = rows
        self._spans[slot] = start, stop

    def drop(self, slot: int, start: int) -> None:
        """Forgets positions from `start` on."""
        if slot < len(self._spans):
            first, stop = self._spans[slot]
            self._spans[slot] = min(first, start), min(stop, start)

    def clear(self) -> None:
        self._spans = [(0, 0)] * len(self._spans)

    def first_readable(self, slot: int) -> int | None:
        """The first position with a row before it, None if there is none. The first token of all
        needs none."""
        start, stop = self._spans[slot]
        if start == stop:
            return None
        return start + 1 if start else 0

    def before(self, slot: int, position: int, count: int) -> NDArray[np.float32] | None:
        """The rows [count, width] of the positions before `position`, `position` + 1, ...; zeros
        before the first of all. None if they are not all known."""
        start, stop = self._spans[slot]
        if not (start < position or start == position == 0) or position + count - 1 > stop:
            return None
        rows: NDArray[np.float32] = self._rows[
            slot, np.arange(position - 1, position + count - 1) % self._kept
        ]
        if not position:
            rows[0] = 0
        return rows


def hidden_bytes(num_slots: int, width: int) -> int:
    """What they take at most."""
    return num_slots * KEPT * width * np.dtype(np.float32).itemsize


def rows_by_slot(batch: Batch) -> Iterator[tuple[int, slice]]:
    """Each slot and its rows, which are neighbours."""
    start = 0
    for slot, same in groupby(batch.slots):
        stop = start + sum(1 for _ in same)
        yield slot, slice(start, stop)
        start = stop
