"""Copies of cells and states in host memory, within a limit: saved from a tree's nodes, restored to
slots.

Decides which copies leave; which cells leave is up to `kvcache.py`.
"""

import numpy as np
from numpy.typing import NDArray

from localinfra.engine.backend import Backend
from localinfra.engine.node import Node
from localinfra.engine.offloaded import OffloadedCells, offloaded_bytes
from localinfra.engine.radix import Prefix, RadixTree

FULL_SHARE = 15 / 16  # of the limit is kept after copies exceed it


class Copies:
    """Engine thread only. Uses the backend's transfer slot, and leaves it empty."""

    def __init__(self, backend: Backend, tree: RadixTree, max_bytes: int):
        self._backend = backend
        self._tree = tree
        self._largest_bytes = max_bytes
        self.max_bytes = max_bytes
        self.bytes_per_cell = 0.0  # of a copy; 0 until there was one
        self._transfer_slot = backend.num_sequences
        # Upper bounds of what copies take, and of what states among them do, without counting.
        self.most_bytes = self.most_state_bytes = 0

    @property
    def num_bytes(self) -> int:
        nodes = self._tree.nodes()
        return offloaded_bytes(copy for node in nodes for copy in (node.offloaded, node.state))

    def offload(self, node: Node) -> None:
        """Copies the node's cells to memory, unless they are there. Raises MemoryError."""
        copy = node.offloaded
        if copy and copy.data is not None:
            return
        data = self.save_span(node.holders, node.depth, node.end)
        if copy is None or (copy.start, copy.stop) != (node.depth, node.end):
            copy = OffloadedCells(node.depth, node.tokens, node.is_canonical, None)
        node.offloaded = copy
        self.fill(copy, data)

    def fill(self, copy: OffloadedCells, data: NDArray[np.uint8]) -> None:
        """Takes in the data of a copy that has none, or only a file."""
        copy.data, copy.num_bytes = data, data.nbytes
        self.most_bytes += data.nbytes
        if copy.tokens:
            self.bytes_per_cell = data.nbytes / len(copy.tokens)
        else:
            self.most_state_bytes += data.nbytes

    def save_span(self, holders: set[int], start: int, stop: int) -> NDArray[np.uint8]:
        """Saves the cells that these slots share at [start, stop). Raises MemoryError."""
        self._backend.copy(min(holders), self._transfer_slot, start, stop)
        try:
            return self._backend.save(self._transfer_slot)
        finally:
            self._backend.drop(self._transfer_slot, 0)

    def restore(self, copy: OffloadedCells, slot: int, start: int, stop: int) -> bool:
        """Restores positions [start, stop) to `slot`; False if the copy is in a file only. There
        must be cells for all of it."""
        if copy.data is None:
            return False
        if is_restored := self._backend.restore(self._transfer_slot, copy.data):
            self._backend.copy(self._transfer_slot, slot, start, stop)
        self._backend.drop(self._transfer_slot, 0)
        return is_restored

    def files_of(self, prefix: Prefix) -> list[OffloadedCells]:
        """The copies along the prefix that have files."""
        path = self._tree.path(prefix)
        copies = (copy for node in path for copy in (node.offloaded, node.state))
        return [copy for copy in dict.fromkeys(copies) if copy and copy.file]

    def limit(self, max_bytes: int) -> None:
        """Keeps at most so much from now on, and never more than it was made for."""
        self.max_bytes = min(self._largest_bytes, max_bytes)
        self.fit()

    def lose(self, copy: OffloadedCells) -> None:
        """Forgets a copy that turned out to be unusable."""
        self._tree.lose(copy)

    def recount(self) -> None:
        """Fits copies that came with the tree."""
        self.most_bytes = self.num_bytes
        self.most_state_bytes = offloaded_bytes(node.state for node in self._tree.nodes())
        self.fit()

    def fit(self) -> None:
        """Drops copies until the rest fits.

        Frees some slack, so that not every eviction has to search through all copies.
        """
        if self.most_bytes <= self.max_bytes:
            return
        target: float = self.max_bytes
        while (size := self.num_bytes) > target:
            target = self.max_bytes * FULL_SHARE
            self._forget_one()
        self.most_bytes = size
        self.most_state_bytes = offloaded_bytes(node.state for node in self._tree.nodes())

    def _forget_one(self) -> None:
        """First of runs also in cells, then what is in a file too, and leaves; states before the
        runs that are of no use without them."""
        tree = self._tree
        copied = [node for node in tree.nodes() if node.offloaded]
        in_memory = [node for node in copied if node.offloaded and node.offloaded.data is not None]
        doubles = [node for node in in_memory if node.holders]
        states = [n for n in tree.nodes() if n.state and n.state.data is not None]
        with_state = set(states)
        leaves = [
            node
            for node in in_memory
            if (node.offloaded and node.offloaded.file) or not (node.children or node in with_state)
        ]
        if victims := doubles or leaves:
            tree.forget(min(victims, key=tree.usefulness))
        elif states:
            tree.forget_state(min(states, key=tree.state_usefulness))
        else:
            # There are runs in files below runs whose file was not written: useless after these.
            leaves = [node for node in copied if not node.children and not node.holders]
            tree.forget(min(leaves, key=tree.usefulness))
