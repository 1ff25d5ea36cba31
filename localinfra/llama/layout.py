"""Which caches a context has, and what its slots can do with them."""

from typing import Any

from localinfra.engine.backend import EXTRA_STATES
from localinfra.llama.cells import CellMap
from localinfra.llama.model import Model
from localinfra.llama.settings import ContextSettings
from localinfra.llama.slots import ChunkSlots, Slots, WindowSlots
from localinfra.llama.state_slots import HybridSlots, StateSlots, WholeSlots, WindowStateSlots

CELL_PADDING = 256  # llama.cpp rounds the cache size up to it


class MemoryLayout:
    def __init__(self, model: Model, settings: ContextSettings):
        self._model = model
        self._num_sequences = settings.num_sequences
        self._batch_size = settings.batch_size
        self._is_separate = settings.separate_caches
        self.is_saved_whole = model.is_saved_whole or settings.separate_caches
        window = model.sliding_window
        # As llama.cpp sizes the cache of windows: it must have room for one of each slot.
        window_cells = window * (settings.num_sequences + 1) + settings.batch_size
        # At the end of a chunk, llama.cpp would give all its cells to others, even the last one,
        # without which the slot could not go on.
        is_full = settings.full_window or model.has_chunks or window_cells >= settings.num_cells
        self.has_full_window = window > 0 and is_full and not settings.separate_caches
        self._has_window_states = window > 0 and not self.has_full_window
        self.needs_states = model.has_state or self._has_window_states or self.is_saved_whole
        self.max_saved = window if self.has_full_window else settings.num_cells
        self.num_states = settings.num_sequences + 1  # one more, for saving and restoring
        if model.has_state and model.has_attention and not self.is_saved_whole:
            self.num_states += EXTRA_STATES
        # Others lose what leaves their windows, or have states that can't be cut.
        self.can_drop_ends = model.sliding_window == 0 and not model.has_state

    def usable_cells(self, num_cells: int) -> int:
        """How many of all cells those slots have that are decoded."""
        if not self._is_separate:
            return num_cells
        return num_cells // self.num_states * self._num_sequences

    def cell_maps(self, num_cells: int) -> list[CellMap]:
        """Maps of the cells of layers with full attention, and of those with a sliding window if
        they have a separate cache; empty if it is not known how cells are used."""
        model = self._model
        if not model.has_attention or not model.has_known_cells or self._is_separate:
            return []
        if not self._has_window_states:
            return [CellMap(num_cells)]
        window = model.sliding_window
        size = min(num_cells, window * (self._num_sequences + 1) + self._batch_size)
        return [CellMap(num_cells), CellMap(-(-size // CELL_PADDING) * CELL_PADDING, window)]

    def slots(self, context: Any, maps: list[CellMap]) -> Slots:
        """`context` is a pointer, `maps` are those of its cells."""
        model = self._model
        if self.is_saved_whole and model.has_attention:
            return WholeSlots(context, model, maps, self.num_states)
        if self.has_full_window:
            return (ChunkSlots if model.has_chunks else WindowSlots)(context, model, maps)
        if not self.needs_states:
            return Slots(context, model, maps)
        if not model.has_attention:
            return StateSlots(context, model, maps, self.num_states)
        if model.has_state:
            last = self.num_states - 1
            return HybridSlots(context, model, maps, stateless=self._num_sequences, spare=last)
        return WindowStateSlots(context, model, maps, self._num_sequences)
