"""What running slots hold, in host memory for a moment: to be put back in another order."""

from collections.abc import Iterable, Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from localinfra.engine.backend import Backend, DecodeFailed
from localinfra.engine.copies import Copies
from localinfra.engine.offloaded import pieces


class SavedSpan(msgspec.Struct, frozen=True):
    """Cells of positions [start, stop), and the slots that share them."""

    holders: set[int]
    start: int
    stop: int
    data: NDArray[np.uint8]


class Contents:
    """Spans, each after those it continues, and the states of slots. Engine thread only."""

    def __init__(
        self,
        backend: Backend,
        spans: list[SavedSpan],
        states: dict[int, tuple[int, NDArray[np.uint8]]],
    ):
        """`states`: by slot, with the position after which each goes on."""
        self._backend = backend
        self._spans = spans
        self._states = states
        self._first: int | None = None  # the slot whose contents are back

    def restore_one(self, slot: int) -> None:
        """Restores what one slot holds, to the first cells. Raises DecodeFailed."""
        for span in self._spans:
            if slot in span.holders:
                self._restore_span(span, {slot})
        if slot in self._states:
            self._restore_state(slot)
        self._first = slot

    def restore(self) -> None:
        """Restores the rest. Raises DecodeFailed."""
        first = self._first
        for span in self._spans:
            if first not in span.holders:
                self._restore_span(span, span.holders)
                continue
            for holder in span.holders - {first}:
                self._backend.copy(first, holder, span.start, span.stop)
        # Windows are states with cells, and each begins in the place of a stub. What fits there
        # goes first: the next tokens then get cells behind all windows, not in between.
        for slot in sorted(self._states.keys() - {first}, key=lambda slot: self._states[slot][0]):
            self._restore_state(slot)

    def _restore_span(self, span: SavedSpan, holders: set[int]) -> None:
        backend, transfer = self._backend, self._backend.num_sequences
        if not backend.restore(transfer, span.data):
            raise DecodeFailed("the KV cells could not be rearranged")
        for holder in holders:
            backend.copy(transfer, holder, span.start, span.stop)
        backend.drop(transfer, 0)

    def _restore_state(self, slot: int) -> None:
        position, state = self._states[slot]
        if not self._backend.restore_state(slot, state, position):
            raise DecodeFailed("a state could not be restored")


def save_spans(
    backend: Backend,
    copies: Copies,
    held: Iterable[tuple[set[int], int, int]],
    running: Mapping[int, int],
) -> Contents:
    """Of slots that share spans: (holders, start, stop). Raises MemoryError."""
    spans = [
        SavedSpan(set(holders), start, stop, copies.save_span(holders, start, stop))
        for holders, first, end in held
        for start, stop in pieces(first, end, backend.max_saved)
    ]
    states = {}
    if backend.needs_states:
        states = {slot: (end, backend.save_state(slot)) for slot, end in running.items() if end}
    return Contents(backend, spans, states)
