"""Copies and drops cells of slots, by the rules of each kind of llama.cpp's memory. Knows neither
prefixes nor their tokens. Outside, cells are named by the index of their token; `places.py` has
their positions.

A slot is a sequence id of llama.cpp. A unified cache accepts MAX_SEQUENCE_IDS of them, however few
are decoded.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from localinfra.engine.backend import Batch
from localinfra.llama import saving
from localinfra.llama.cells import CellMap
from localinfra.llama.library import llama_cpp
from localinfra.llama.places import Places

MAX_SEQUENCE_IDS = 256  # LLAMA_MAX_SEQ
IDLE_WINDOWS = 32  # slots that only hold cells where each takes a cell of a window


class Slots:
    """Full attention, with a cell for each token: slots share cells at no cost."""

    num_slots = MAX_SEQUENCE_IDS

    def __init__(self, memory: Any, maps: list[CellMap]):
        """`maps` mirror the cells, if it is known how they are used."""
        self._memory = memory
        self._maps = maps
        self.places = Places()

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

    def restored(self, slot: int) -> None:
        """To be called after a slot got a state."""

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

    def __init__(self, memory: Any, maps: list[CellMap], window: int):
        super().__init__(memory, maps)
        self._max_lag = window // 2
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
            if position + 1 - self._shadowed.get(slot, 0) > self._max_lag:
                self._catch_up(slot)

    def _catch_up(self, slot: int) -> None:
        known, end = self._shadowed.get(slot, 0), self._ends.setdefault(slot, 0)
        if known < end:
            self._copy(slot, slot + self.num_slots, known, end)
        self._shadowed[slot] = end

    def clear(self) -> None:
        super().clear()
        self._ends.clear()
        self._shadowed.clear()


class WindowStateSlots(Slots):
    """Layers with a sliding window, whose cache only has room for the windows of slots that are
    decoded, beside layers with full attention.

    A window is a slot's state: it is saved and restored by itself, and never shared, since
    llama.cpp can't reuse cells that several slots hold. Copies bring cells of windows along; in
    their place, a slot gets its own window back, or a stub of one cell that nobody looks at.
    """

    def __init__(
        self,
        memory: Any,
        maps: list[CellMap],
        context: Any,
        num_sequences: int,
        window: int,
    ):
        """The last of the `maps` is of windows; `context` is a pointer."""
        super().__init__(memory, maps)
        self._context = context
        # Stubs are in the room for a window of the transfer slot, which is never decoded.
        self.num_slots = num_sequences + 1 + min(IDLE_WINDOWS, window // 2)
        self._owners: set[int] = set()  # slots with a window of their own
        self.stub = np.zeros(0, np.uint8)  # the state of a slot with one token

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        with self._window_aside(target):
            super().copy(source, target, start, stop)

    def drop(self, slot: int, start: int, stop: int | None = None) -> None:
        if stop is None:
            super().drop(slot, start)
            if not start:
                self._owners.discard(slot)
            return
        with self._window_aside(slot):
            super().drop(slot, start, stop)

    def computed(self, batch: Batch) -> None:
        self._owners.update(batch.slots)

    def restored(self, slot: int) -> None:
        self._owners.add(slot)

    @contextlib.contextmanager
    def _window_aside(self, slot: int) -> Iterator[None]:
        context, maps, window = self._context, self._maps[1:], self.stub
        if slot in self._owners:
            window = saving.save(context, slot, maps, saving.STATE_ONLY)
        yield
        is_restored = saving.restore(context, slot, window, maps, saving.STATE_ONLY)
        assert is_restored, "there is room for each slot's window"

    def clear(self) -> None:
        super().clear()
        self._owners.clear()


class HybridSlots(Slots):
    """Layers with a recurrent state beside ones with full attention.

    `llama_memory_seq_cp` of any cells also gives the target the source's state, or takes away its
    own if the source has none; `llama_memory_seq_rm` refuses to cut what has a state. So a state is
    put aside meanwhile, which moves no data. Every slot needs room for a state, although only those
    that are decoded have one.
    """

    def __init__(self, memory: Any, maps: list[CellMap], stateless: int, spare: int):
        """Two slots without cells and state whenever these methods are called; `spare` is used by
        nobody else."""
        super().__init__(memory, maps)
        self.num_slots = spare
        self._stateless = stateless
        self._spare = spare

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        with self._state_aside(target):
            super().copy(source, target, start, stop)

    def drop(self, slot: int, start: int, stop: int | None = None) -> None:
        if stop is None:  # all of it, or the end of what can be rolled back
            super().drop(slot, start)
            return
        with self._state_aside(slot):
            super().drop(slot, start, stop)

    @contextlib.contextmanager
    def _state_aside(self, slot: int) -> Iterator[None]:
        self._copy(slot, self._spare, 0, 0)  # no cells
        self._copy(self._stateless, slot, 0, 0)
        yield
        self._copy(self._spare, slot, 0, 0)
        self._drop(self._spare, 0)


class StateSlots(Slots):
    """Layers with a recurrent state only: there are no cells to copy or to cut."""

    def __init__(self, memory: Any, num_states: int):
        super().__init__(memory, [])
        self._num_states = num_states

    def copy(self, source: int, target: int, start: int, stop: int) -> None: ...

    def drop(self, slot: int, start: int, stop: int | None = None) -> None:
        if start == 0 and stop is None and slot < self._num_states:
            super().drop(slot, start)
