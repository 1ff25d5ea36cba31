"""Mirrors where llama.cpp puts tokens in a unified KV cache, by its own rule
(`llama_kv_cache::find_slot`), since its API does not report it.

Attention sums in the order of cells, so a text rounds the same way every time only if its cells
are in the order of its positions. Pure: no pointers.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

PADDING = 256  # attention covers a multiple of this many cells


class CellMap:
    """The cells of each slot, by position. Mirrors every change to the cache.

    llama.cpp searches upwards from the last token's cell, or from the lowest cell freed since. With
    a sliding `window`, in tokens, cells outside the window of their slot's next token count as
    empty."""

    def __init__(self, num_cells: int, window: int = 0):
        self._num_cells = num_cells
        self._window = window
        self.clear()

    def clear(self) -> None:
        self._num_holders = np.zeros(self._num_cells, np.int16)  # slots, by cell
        self._owner = np.zeros(self._num_cells, np.int16)  # by cell: the slot that filled it,
        self._position = np.zeros(self._num_cells, np.int32)  # and at which position
        self._cells: dict[int, list[int]] = {}  # by slot and position; -1: none
        self._is_ordered: dict[int, bool] = {}  # by slot, where known
        self._num_used = 0
        self._head = 0

    @property
    def num_seen(self) -> int:
        """The number of cells that attention covers in the next step, if it has one row."""
        used = np.flatnonzero(self._num_holders)
        end: int = max([*used[-1:].tolist(), *self._find(1), 0]) + 1
        return min(-(-end // PADDING) * PADDING, self._num_cells)

    @property
    def num_held(self) -> int:
        return int(np.count_nonzero(self._num_holders))

    def add(self, slots: Sequence[int], positions: Sequence[int]) -> None:
        """Records a decoded batch: each token has a cell now. If a cell is overwritten, its slot
        loses all tokens up to that one."""
        found = self._find(len(slots))
        taken: dict[int, int] = {}
        if self._window:
            for cell in found:
                if self._num_holders[cell]:
                    owner = int(self._owner[cell])
                    taken[owner] = max(taken.get(owner, 0), int(self._position[cell]))
            for owner, position in taken.items():
                self.drop(owner, 0, position + 1)
        for cell, slot, position in zip(found, slots, positions, strict=True):
            self._put(slot, position, cell)

    def restore(self, slot: int, positions: Iterable[int]) -> None:
        """Replaces the slot's tokens by ones at these positions, in the order of their cells."""
        self.drop(slot, 0)
        places = list(positions)
        self.add([slot] * len(places), places)

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        held = self._cells.get(source, [])[start:stop]
        if not held:
            return
        if self._cells.get(target, [])[start:stop]:  # a window, which is put back afterwards
            self.drop(target, start, start + len(held))
        cells = self._cells.setdefault(target, [])
        cells += [-1] * (start + len(held) - len(cells))
        cells[start : start + len(held)] = held
        self._num_holders[_cells_in(held)] += 1
        self._is_ordered.pop(target, None)

    def drop(self, slot: int, start: int, stop: int | None = None) -> None:
        cells = self._cells.get(slot, [])
        left = _cells_in(cells[start:stop])
        self._num_holders[left] -= 1
        freed = left[self._num_holders[left] == 0]
        if freed.size:
            self._num_used -= freed.size
            self._head = min(self._head, int(freed.min()))
        if stop is None or stop >= len(cells):
            del cells[start:]
            while cells and cells[-1] < 0:
                cells.pop()
        else:
            cells[start:stop] = [-1] * (stop - start)
        if stop is not None or not self._is_ordered.get(slot, True):
            self._is_ordered.pop(slot, None)
        if not cells:
            self._cells.pop(slot, None)
            self._is_ordered.pop(slot, None)

    def stays_ordered(self, wanted: set[int], slots: Sequence[int]) -> bool:
        """Whether the cells of each `wanted` slot will be in the order of its positions after
        decoding a batch with a token for each of `slots`."""
        last = {slot: self._last(slot) for slot in wanted}
        if None in last.values():
            return False
        for cell, slot in zip(self._find(len(slots)), slots, strict=True):
            if slot in wanted:
                if cell < (last[slot] or 0):
                    return False
                last[slot] = cell
        return True

    def positions(self, slot: int) -> list[int]:
        """The slot's positions within its window, in cell order, as llama.cpp saves them."""
        cells = self._cells.get(slot, [])
        first = max(0, len(cells) - self._window) if self._window else 0
        held = [(cell, at) for at, cell in enumerate(cells[first:], first) if cell >= 0]
        return [at for _, at in sorted(held)]

    def _last(self, slot: int) -> int | None:
        """The slot's last cell, -1 if it has none; None if its cells are out of order."""
        cells = self._cells.get(slot)
        if not cells:
            return -1
        if slot not in self._is_ordered or (self._window and not self._is_ordered[slot]):
            seen = cells[1 - self._window :] if self._window else cells
            self._is_ordered[slot] = bool((np.diff(np.array(seen)) > 0).all())
        return cells[-1] if self._is_ordered[slot] else None

    def _put(self, slot: int, position: int, cell: int) -> None:
        cells = self._cells.setdefault(slot, [])
        if position == len(cells):
            if cells and cell < cells[-1]:
                self._is_ordered[slot] = False
            cells.append(cell)
        else:  # restored cells, whose first position is not 0
            cells += [-1] * (position + 1 - len(cells))
            cells[position] = cell
            self._is_ordered.pop(slot, None)
        self._num_holders[cell] += 1
        self._owner[cell], self._position[cell] = slot, position
        self._num_used += 1
        self._head = cell + 1

    def _find(self, num_tokens: int) -> list[int]:
        """The cells that the next tokens will get; fewer if the cache is full."""
        head = 0 if self._head > self._num_used + 2 * num_tokens else self._head
        near = self._empty(head, min(head + num_tokens, self._num_cells), num_tokens)
        if len(near) < num_tokens:
            near = self._empty(head, self._num_cells, num_tokens)
            near += self._empty(0, head, num_tokens - len(near))
        return near

    def _empty(self, start: int, stop: int, limit: int) -> list[int]:
        is_empty = self._num_holders[start:stop] == 0
        if self._window:
            # By slot: the last position outside the window of its next token.
            last = np.full(max(self._cells, default=0) + 1, -1)
            for slot, cells in self._cells.items():
                last[slot] = len(cells) - self._window
            owner = np.minimum(self._owner[start:stop], len(last) - 1)
            is_empty |= self._position[start:stop] <= last[owner]
        empty: NDArray[np.intp] = np.flatnonzero(is_empty)[:limit]
        return [start + int(cell) for cell in empty]


def parts_by_slot(slots: Sequence[int], whole_tail: int = 0) -> list[list[int]]:
    """The rows of each part in which a model with a recurrent state computes a batch: as many of
    every slot that has some left, but the last `whole_tail` of a slot all in one part
    (`llama_batch_allocr::split_equal`). Each slot's rows are neighbours."""
    left: dict[int, list[int]] = {}
    for row, slot in enumerate(slots):
        left.setdefault(slot, []).append(row)
    parts = []
    while left:
        size = min(map(len, left.values()))
        fits = [len(rows) == size or len(rows) - size >= whole_tail for rows in left.values()]
        taken = dict(list(left.items())[: [*fits, False].index(False)])
        if not taken:
            slot, rows = next(iter(left.items()))
            taken, size = {slot: rows}, len(rows)
        parts.append([row for rows in taken.values() for row in rows[:size]])
        left = {slot: rows[size:] if slot in taken else rows for slot, rows in left.items()}
        left = {slot: rows for slot, rows in left.items() if rows}
    return parts


def _cells_in(places: list[int]) -> NDArray[np.intp]:
    """Those that are held."""
    cells = np.array(places, np.intp)
    return cells[cells >= 0]
