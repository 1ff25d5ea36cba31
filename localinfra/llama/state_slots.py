"""Slots of memories with states: what has been read so far, without which there is no going on, and
which can't be cut. Copies, drops, saves and restores them by the rules of each kind.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localinfra.engine.backend import Batch
from localinfra.llama import saving
from localinfra.llama.cells import CellMap
from localinfra.llama.model import Model
from localinfra.llama.places import are_sound, areas_of, packed
from localinfra.llama.slots import Slots
from localinfra.llama.state import is_sound, is_sound_state, is_sound_window
from localinfra.llama.whole_state import is_sound_whole

IDLE_WINDOWS = 32  # slots that only hold cells where each takes a cell of a window


class StatefulSlots(Slots):
    flags = saving.STATE_ONLY  # what a state is to llama.cpp

    def __init__(self, context: Any, model: Model, maps: list[CellMap]):
        super().__init__(context, model, maps)
        self._state_maps: list[CellMap] = []  # of the cells that states have

    def save_state(self, slot: int) -> NDArray[np.uint8]:
        return saving.save(self._context, slot, self._state_maps, self.flags)

    def restore_state(self, slot: int, data: NDArray[np.uint8]) -> bool:
        return saving.restore(self._context, slot, data, self._state_maps, self.flags)

    def accepts_state(self, data: NDArray[np.uint8], stop: int) -> bool:
        return is_sound_state(data, stop, may_lag=self._kept_places is not None)


class WindowStateSlots(StatefulSlots):
    """Layers with a sliding window, whose cache only has room for the windows of slots that are
    decoded, beside layers with full attention.

    A window is a slot's state: it is saved and restored by itself, and never shared, since
    llama.cpp can't reuse cells that several slots hold. Copies bring cells of windows along; in
    their place, a slot gets its own window back, or a stub of one cell that nobody looks at.
    """

    def __init__(self, context: Any, model: Model, maps: list[CellMap], num_sequences: int):
        """The last of the `maps` is of windows."""
        super().__init__(context, model, maps)
        self._window = model.sliding_window
        self._state_maps = maps[1:]
        # Stubs are in the room for a window of the transfer slot, which is never decoded.
        self.num_slots = num_sequences + 1 + min(IDLE_WINDOWS, self._window // 2)
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

    def restore_state(self, slot: int, data: NDArray[np.uint8]) -> bool:
        self._owners.add(slot)
        return super().restore_state(slot, data)

    def accepts(self, data: NDArray[np.uint8], start: int, stop: int) -> bool:
        return is_sound(
            data, start, stop, len(self._maps), has_values=self._has_values, has_stub=True,
            has_areas=self._kept_places is not None,
        )  # fmt: skip

    def accepts_state(self, data: NDArray[np.uint8], stop: int) -> bool:
        return is_sound_window(data, stop, self._window, has_values=self._has_values)

    @contextlib.contextmanager
    def _window_aside(self, slot: int) -> Iterator[None]:
        window = self.save_state(slot) if slot in self._owners else self.stub
        yield
        is_restored = super().restore_state(slot, window)
        assert is_restored, "there is room for each slot's window"

    def clear(self) -> None:
        super().clear()
        self._owners.clear()


class HybridSlots(StatefulSlots):
    """Layers with a recurrent state beside ones with full attention.

    `llama_memory_seq_cp` of any cells also gives the target the source's state, or takes away its
    own if the source has none; `llama_memory_seq_rm` refuses to cut what has a state. So a state is
    put aside meanwhile, which moves no data. Every slot needs room for a state, although only those
    that are decoded have one.
    """

    def __init__(self, context: Any, model: Model, maps: list[CellMap], stateless: int, spare: int):
        """`stateless` and `spare` are slots without cells and state whenever these methods are
        called; `spare` is used by nobody else."""
        super().__init__(context, model, maps)
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


class StateSlots(StatefulSlots):
    """Whatever a slot holds is a state: there are no cells to copy or to cut. So it is with
    recurrent layers only."""

    def __init__(self, context: Any, model: Model, maps: list[CellMap], num_states: int):
        super().__init__(context, model, maps)
        self._num_states = num_states

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        self.places.copy(source, target, stop)

    def drop(self, slot: int, start: int, stop: int | None = None) -> None:
        if start == 0 and stop is None and slot < self._num_states:
            super().drop(slot, start)
        elif stop is None:
            self.places.drop(slot, start)

    def save(self, slot: int) -> NDArray[np.uint8]:
        places = self._kept_places
        return (
            np.zeros(0, np.uint8) if places is None else packed(places.areas(slot)).view(np.uint8)
        )

    def restore(self, slot: int, data: NDArray[np.uint8]) -> bool:
        if self._kept_places is not None:
            areas, _ = areas_of(data, data.nbytes)
            self._kept_places.restore(slot, areas)
        return True

    def accepts(self, data: NDArray[np.uint8], start: int, stop: int) -> bool:
        if self._kept_places is None:
            return data.nbytes == 0
        areas, size = areas_of(data, data.nbytes)
        return size == 0 and are_sound(areas) and all(area.end <= stop for area in areas)


class WholeSlots(StateSlots):
    """A state has all cells of its slot, of whatever kind. Copying it takes longer and more memory
    the more tokens there are, but much less than reading them again."""

    flags = 0

    def __init__(self, context: Any, model: Model, maps: list[CellMap], num_states: int):
        super().__init__(context, model, maps, num_states)
        self._state_maps = maps

    def drop(self, slot: int, start: int, stop: int | None = None) -> None:
        if start and stop is None and slot < self._num_states:
            Slots.drop(self, slot, start)  # a draft, where the memory can take it back
        else:
            super().drop(slot, start, stop)

    def accepts_state(self, data: NDArray[np.uint8], stop: int) -> bool:
        may_lag = self._kept_places is not None
        return is_sound_whole(data, stop, len(self._maps), self._has_values, may_lag=may_lag)
