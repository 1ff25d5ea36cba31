"""Saved states, at nodes of the tree. Recurrent layers know a sequence's last position only, as do
caches of a sliding window: their models go on from a state. `borders.py` decides where they are
saved, `copies.py` keeps them within the limit of host memory.
"""

import contextlib

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

    def save(self, slot: int, prefix: Prefix, min_gap: int = 1) -> None:
        """Saves the state of `slot` after the prefix, which the tree knows and the slot has
        computed, if that is at least `min_gap` tokens after the last one."""
        *_, node = self._tree.path(prefix)
        assert node.end == len(prefix.tokens)
        is_known = node.state is not None and node.state.data is not None
        if is_known or not self._copies.max_bytes or node.end - node.state_before < min_gap:
            return
        with contextlib.suppress(MemoryError):  # then more is computed again
            data = self._backend.save_state(slot)
            node.state = node.state or OffloadedCells(node.end, (), node.is_canonical, None)
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
