"""Saved states, at nodes of the tree. Recurrent layers know a sequence's last position only, as do
caches of a sliding window: their models go on from a state. `borders.py` decides where they are
saved, `copies.py` keeps them within the limit of host memory.
"""

import contextlib
import sys

from localinfra.engine.backend import Backend
from localinfra.engine.copies import Copies
from localinfra.engine.offloaded import KeptSpan, OffloadedCells
from localinfra.engine.radix import Prefix, RadixTree

WORTH_WRITING = 128  # tokens from one state in a file to the next


class States:
    """Engine thread only."""

    def __init__(self, backend: Backend, tree: RadixTree, copies: Copies):
        self._backend = backend
        self._tree = tree
        self._copies = copies
        # One after so many tokens was too large for this limit. Longer texts have none smaller.
        self._too_long, self._limit = sys.maxsize, 0

    def save(self, slot: int, prefix: Prefix, *, is_canonical: bool, min_gap: int = 1) -> None:
        """Saves the state of `slot` after the prefix, which the tree knows and the slot has
        computed, if that is at least `min_gap` tokens after the last one.

        `is_canonical` is about the slot: it may share canonical cells, and still have a state that
        was computed otherwise."""
        *_, node = self._tree.path(prefix)
        assert node.end == len(prefix.tokens)
        if not self._copies.max_bytes or node.end - node.state_before < min_gap:
            return
        if node.end >= self._too_long and self._copies.max_bytes <= self._limit:
            return
        known = node.state
        is_better = is_canonical and known is not None and not known.is_canonical
        if known and known.data is not None and not is_better:
            return
        with contextlib.suppress(MemoryError):  # then more is computed again
            data = self._backend.save_state(slot)
            if data.nbytes > self._copies.max_bytes:
                # All others would leave to make room for it, and then it would, too.
                self._too_long, self._limit = node.end, self._copies.max_bytes
                return
            if known is None or known.is_canonical != is_canonical:
                node.state = OffloadedCells(node.end, (), is_canonical, None)
            assert node.state
            self._copies.fill(node.state, data)
            self._copies.fit()

    def next_unwritten(self, prefix: Prefix, start: int) -> KeptSpan | None:
        """The first state after position `start` of a prefix that is worth a file; None if there is
        no more. Those close to each other are not, but for the last one."""
        path = [node for node in self._tree.path(prefix) if node.state and node.end > start]
        for node in path:
            is_worth = node is path[-1] or node.end - start >= WORTH_WRITING
            parent, state = node.offloaded, node.state
            if is_worth and parent and parent.file and state and state.data is not None:
                return KeptSpan(prefix.salt, parent, state)
        return None
