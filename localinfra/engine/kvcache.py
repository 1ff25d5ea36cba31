"""Who holds which KV cells: slots for sequences, prefixes kept for later requests, room for more.

Owns slot ids and the count of cells. Cells shared by several slots are counted once; what a
running slot holds beyond its recorded prefix is counted with that slot.
"""

from localinfra.engine.backend import Backend
from localinfra.engine.radix import RadixTree


class KVCache:
    """Slots and prefixes over a backend's cells. Engine thread only.

    Slots below `num_sequences` take part in batches: each is free or running. Those above only
    keep the prefixes of finished sequences, sharing their cells, until room is needed.
    """

    def __init__(self, backend: Backend):
        self._backend = backend
        self._start()

    def _start(self) -> None:
        backend = self._backend
        self._tree = RadixTree()
        self._free = list(reversed(range(backend.num_sequences)))
        self._free_keepers = list(range(backend.num_sequences, backend.num_slots))
        self._running: dict[int, int] = {}  # slot → tokens it holds
        self._recorded: dict[int, list[int]] = {}  # slot or keeper → its path in the tree
        self._num_private = 0  # cells that running slots hold beyond what is recorded

    @property
    def num_used(self) -> int:
        """Cells in use: the tree's, and what running slots hold beyond it."""
        return self._tree.num_tokens + self._num_private

    @property
    def num_free(self) -> int:
        return self._backend.num_cells - self.num_used

    @property
    def num_cached(self) -> int:
        """Cells that hold prefixes of no running sequence, and give way when room is needed."""
        return self._tree.num_evictable(set(self._running))

    def match(self, tokens: list[int], limit: int) -> int:
        """How many of the first `limit` tokens need not be computed."""
        return self._tree.match(tokens, limit)[0]

    def num_idle(self, tokens: list[int], length: int) -> int:
        """Of `length` matched tokens, those that only a finished sequence holds."""
        return self._tree.num_idle(tokens, length, set(self._running))

    def acquire(self, tokens: list[int], limit: int) -> tuple[int, int]:
        """A slot for a sequence, with the longest cached prefix of `tokens[:limit]` in it.

        Returns (slot, length of that prefix).
        """
        length, holder = self._tree.match(tokens, limit)
        slot = self._free.pop()
        self._running[slot] = 0
        if holder is not None and length:
            self._backend.copy(holder, slot, 0, length)
            self._running[slot] = length
            self._recorded[slot] = tokens[:length]
            self._tree.insert(tokens[:length], slot)
        return slot, length

    def advance(self, slot: int, num_tokens: int) -> None:
        """The slot holds `num_tokens` more."""
        self._running[slot] += num_tokens
        self._num_private += num_tokens

    def record(self, slot: int, tokens: list[int]) -> None:
        """Offers what a running slot holds, `tokens`, to other requests."""
        if not self._backend.can_share_prefixes:
            return
        for holder, start, stop in self._tree.insert(tokens, slot):
            # Someone computed the same meanwhile: keep one copy of the cells.
            self._backend.drop(slot, start, stop)
            self._backend.copy(holder, slot, start, stop)
        self._num_private -= len(tokens) - len(self._recorded.get(slot, ()))
        self._recorded[slot] = tokens

    def finish(self, slot: int, tokens: list[int]) -> None:
        """The sequence leaves; `tokens`, all that the slot holds, stay as a cached prefix."""
        self.record(slot, tokens)
        if slot in self._recorded and not self._tree.is_redundant(slot, tokens):
            keeper = self._take_keeper()
            self._backend.copy(slot, keeper, 0, len(tokens))
            self._tree.insert(tokens, keeper)
            self._recorded[keeper] = tokens
        self._num_private -= self._running.pop(slot) - len(self._recorded.get(slot, ()))
        self._release(slot)

    def make_room(self, num_tokens: int) -> bool:
        """Evicts least recently used prefixes until `num_tokens` cells are free."""
        missing = num_tokens - self.num_free
        while missing > 0:
            leaf = self._tree.oldest_leaf(set(self._running))
            if leaf is None:
                return False
            cut = min(missing, len(leaf.tokens))
            start = leaf.end - cut
            self._tree.trim(leaf, cut)
            for slot in leaf.holders:
                self._backend.drop(slot, start)
                self._recorded[slot] = self._recorded[slot][:start]
                if not start:
                    self._forget(slot)
            missing -= cut
        return True

    def clear(self) -> None:
        """Forgets everything, running slots too; the backend's cells are emptied with it."""
        self._backend.clear()
        self._start()

    def _take_keeper(self) -> int:
        """A free keeper; where there is none, the most useless one gives up its prefix."""
        if not self._free_keepers:
            keepers = [slot for slot in self._recorded if slot not in self._running]
            redundant = (k for k in keepers if self._tree.is_redundant(k, self._recorded[k]))
            victim = next(redundant, None)
            if victim is None:
                leaf = self._tree.oldest_leaf(set(self._running))
                assert leaf is not None, "every keeper ends in a leaf of its own"
                victim = next(iter(leaf.holders))
            self._release(victim)
        return self._free_keepers.pop()

    def _release(self, slot: int) -> None:
        self._tree.release(slot, self._recorded.get(slot, []))
        self._backend.drop(slot, 0)
        self._forget(slot)

    def _forget(self, slot: int) -> None:
        self._recorded.pop(slot, None)
        pool = self._free if slot < self._backend.num_sequences else self._free_keepers
        pool.append(slot)
