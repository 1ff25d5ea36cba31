"""Copies, drops, saves and restores what slots hold, by the rules of each kind of memory:
here where it is cells, in `state_slots.py` where there are states. Knows neither prefixes nor their
tokens. Outside, cells are named by the index of their token; `places.py` has
their positions.

A slot is a sequence id of llama.cpp. A unified cache accepts MAX_SEQUENCE_IDS of them, however few
are decoded.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localinfra.engine.backend import Batch
from localinfra.llama import saving
from localinfra.llama.cells import CellMap
from localinfra.llama.library import llama_cpp
from localinfra.llama.model import Model
from localinfra.llama.places import Places
from localinfra.llama.state import is_sound

MAX_SEQUENCE_IDS = 256  # LLAMA_MAX_SEQ


class Slots:
    """Full attention, with a cell for each token: slots share cells at no cost."""

    num_slots = MAX_SEQUENCE_IDS

    def __init__(self, context: Any, model: Model, maps: list[CellMap]):
        """`context` is a pointer; `maps` mirror the cells, if it is known how they are used."""
        self._context = context
        self._memory = llama_cpp.llama_get_memory(context)
        self._maps = maps
        self._has_values = model.has_values
        self.places = Places()
        # Without M-RoPE there are no areas to keep.
        self._kept_places = self.places if model.has_grid_positions else None

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        places = self.places
        self._copy(source, target, places.at(source, start), places.after(source, stop))
        places.copy(source, target, stop)
        for cells in self._maps:
            cells.copy(source, target, start, stop)

    def drop(self, slot: int, start: int, stop: int | None = None) -> None:
        places = self.places
        end = None if stop is None else places.after(slot, stop)
        self._drop(slot, places.at(slot, start), end)
        if stop is None:  # else others of the same tokens take their place
            places.drop(slot, start)
        for cells in self._maps:
            cells.drop(slot, start, stop)

    def computed(self, batch: Batch) -> None:
        """To be called after each decoded batch."""

    def save(self, slot: int) -> NDArray[np.uint8]:
        """The slot's cells, in llama.cpp's form. Raises MemoryError."""
        return saving.save(self._context, slot, self._maps, places=self._kept_places)

    def restore(self, slot: int, data: NDArray[np.uint8]) -> bool:
        """Replaces the slot's cells by saved ones. False if there is no room."""
        return saving.restore(self._context, slot, data, self._maps, places=self._kept_places)

    def accepts(self, data: NDArray[np.uint8], start: int, stop: int) -> bool:
        """Whether the data, which come from a file, are formed like cells of [start, stop)."""
        return is_sound(
            data, start, stop, len(self._maps),
            has_values=self._has_values, has_areas=self._kept_places is not None,
        )  # fmt: skip

    def save_state(self, slot: int) -> NDArray[np.uint8]:
        """Likewise, but what can't be shared, where there is such a thing."""
        raise NotImplementedError

    def restore_state(self, slot: int, data: NDArray[np.uint8]) -> bool:
        raise NotImplementedError

    def accepts_state(self, data: NDArray[np.uint8], stop: int) -> bool:
        return False

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(self._memory, False)
        self.places.clear()
        for cells in self._maps:
            cells.clear()

    def _copy(self, source: int, target: int, start: int, stop: int) -> None:
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, start, stop)

    def _drop(self, slot: int, start: int, stop: int | None = None) -> None:
        end = -1 if stop is None else stop
        removed = llama_cpp.llama_memory_seq_rm(self._memory, slot, start, end)
        assert removed, "only whole sequences are dropped where parts can't be"


class WindowSlots(Slots):
    """Layers with a sliding window beside ones with full attention, all with a cell for each token.

    llama.cpp reuses cells outside the window of the one slot that holds them
    (`llama_kv_cache::find_slot`), but none that several slots hold. So each slot has a shadow, a
    second one with the same cells, which may lag by half a window.
    """

    num_slots = MAX_SEQUENCE_IDS // 2

    def __init__(self, context: Any, model: Model, maps: list[CellMap]):
        super().__init__(context, model, maps)
        self._window = model.sliding_window
        self._ends: dict[int, int] = {}  # slot → positions it has
        self._shadowed: dict[int, int] = {}  # slot → positions its shadow has

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        self._catch_up(target)
        super().copy(source, target, start, stop)
        self._copy(source, target + self.num_slots, start, stop)
        self._ends[target] = self._shadowed[target] = max(stop, self._ends[target])

    def drop(self, slot: int, start: int, stop: int | None = None) -> None:
        self._catch_up(slot)
        super().drop(slot, start, stop)
        self._drop(slot + self.num_slots, start, stop)
        if stop is None or stop >= self._ends[slot]:
            self._ends[slot] = self._shadowed[slot] = min(start, self._ends[slot])

    def computed(self, batch: Batch) -> None:
        last = dict(zip(batch.slots, batch.positions, strict=True))
        for slot, position in last.items():
            self._ends[slot] = position + 1
            if self._lags(self._shadowed.get(slot, 0), position + 1):
                self._catch_up(slot)

    def _lags(self, shadowed: int, end: int) -> bool:
        """Whether cells without a shadow are about to leave the window."""
        return end - shadowed > self._window // 2

    def _catch_up(self, slot: int) -> None:
        known, end = self._shadowed.get(slot, 0), self._ends.setdefault(slot, 0)
        if known < end:
            self._copy(slot, slot + self.num_slots, known, end)
        self._shadowed[slot] = end

    def clear(self) -> None:
        super().clear()
        self._ends.clear()
        self._shadowed.clear()


class ChunkSlots(WindowSlots):
    """Layers that attend to a chunk of the positions, up to the next multiple of the window.

    llama.cpp saves no cells of chunks before that of the slot's last token, so those of another
    chunk are saved apart.
    """

    num_slots = MAX_SEQUENCE_IDS // 2 - 1
    _spare = 2 * num_slots

    def save(self, slot: int) -> NDArray[np.uint8]:
        held = self._maps[0].positions(slot)
        start, stop = min(held, default=0), max(held, default=-1) + 1
        chunks = self._chunks(start, stop)
        if len(chunks) == 1:
            parts = [super().save(slot)]
        else:
            with self._aside(slot, start, stop):
                parts = []
                for part in chunks:
                    Slots.drop(self, slot, 0)
                    Slots.copy(self, self._spare, slot, *part)
                    parts.append(super().save(slot))
        sizes = [part.nbytes for part in parts]
        tail = np.array([*sizes, len(parts)], np.int64).view(np.uint8)
        return np.concatenate((*parts, tail))

    def restore(self, slot: int, data: NDArray[np.uint8]) -> bool:
        first, *rest = _split(data)
        is_restored = super().restore(slot, first)
        for part in rest:
            held = self._maps[0].positions(slot)
            with self._aside(slot, min(held), max(held) + 1):
                is_restored = is_restored and super().restore(slot, part)
        return is_restored

    @contextlib.contextmanager
    def _aside(self, slot: int, start: int, stop: int) -> Iterator[None]:
        """Keeps the slot's cells meanwhile, and adds them to what it has then. Having two holders,
        they are not reused."""
        Slots.copy(self, slot, self._spare, start, stop)
        self._copy(self._spare, self._spare + 1, start, stop)
        try:
            yield
        finally:
            Slots.drop(self, slot, start, stop)
            Slots.copy(self, self._spare, slot, start, stop)
            Slots.drop(self, self._spare, 0)
            self._drop(self._spare + 1, 0)

    def accepts(self, data: NDArray[np.uint8], start: int, stop: int) -> bool:
        parts, spans = _split(data), self._chunks(start, stop)
        return len(parts) == len(spans) <= 2 and all(
            super(ChunkSlots, self).accepts(part, *span)
            for part, span in zip(parts, spans, strict=True)
        )

    def _lags(self, shadowed: int, end: int) -> bool:
        return end // self._window > shadowed // self._window

    def _chunks(self, start: int, stop: int) -> list[tuple[int, int]]:
        """[start, stop) by chunk; at most two, since no more than a window is saved at once."""
        border = (stop - 1) // self._window * self._window
        return [(start, border), (border, stop)] if start < border else [(start, stop)]


def _split(data: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The parts whose sizes and number stand at the end; none if these can't be so."""
    end = data.nbytes - 8
    if end < 0:
        return []
    count = int(_int64(data[end:])[0])
    if not 1 <= count <= end // 8:
        return []
    sizes = _int64(data[end - 8 * count : end])
    if (sizes < 0).any() or sizes.sum() != end - 8 * count:
        return []
    return np.split(data[: end - 8 * count], np.cumsum(sizes)[:-1])


def _int64(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.frombuffer(data.tobytes(), np.int64)  # a copy, since it may not be aligned
