"""Allocation of KV cells: slots for sequences, cached prefixes, eviction.

Owns the slot ids and the count of cells. Cells shared by several slots count once; cells of a
running slot beyond its recorded prefix count with that slot.
"""

import contextlib
import math
from collections.abc import Iterable

from localinfra.engine.backend import Backend
from localinfra.engine.copies import Copies
from localinfra.engine.node import Node
from localinfra.engine.offloaded import (
    MAX_OFFLOADED,
    MIN_OFFLOADED,
    KeptSpan,
    OffloadedCells,
)
from localinfra.engine.radix import Match, Prefix, RadixTree
from localinfra.engine.relaying import Contents, save_spans
from localinfra.engine.states import States
from localinfra.engine.tidying import MANY_IDLE, Tidying


class KVCache:
    """Slots and prefixes over a backend's cells. Engine thread only.

    Slots below `num_sequences` take part in batches: each is free or running. The next one is the
    transfer slot, for saving and restoring. Those above are cache slots: they keep the prefixes of
    finished sequences, sharing their cells, until room is needed. Evicted prefixes are offloaded
    to host memory, up to `max_offloaded` bytes, and restored when a sequence begins with them.
    """

    def __init__(self, backend: Backend, max_offloaded: int = 0, max_stall_s: float = math.inf):
        self._backend = backend
        self._transfer_slot = backend.num_sequences
        self._max_piece = min(MAX_OFFLOADED, backend.max_saved)  # tokens per copy
        self._tree = RadixTree(needs_states=backend.needs_states)
        self.copies = Copies(backend, self._tree, max_offloaded)
        self.states = States(backend, self._tree, self.copies)
        self._free = list(reversed(range(backend.num_sequences)))
        self._free_cache_slots = list(range(backend.num_sequences + 1, backend.num_slots))
        self._running: dict[int, int] = {}  # slot → tokens it holds
        self._canonical: set[int] = set()  # of the running slots
        self._recorded: dict[int, Prefix] = {}  # running or cache slot → its path in the tree
        self.num_private = 0  # cells of running slots beyond their recorded prefixes
        self._tidying = Tidying(max_stall_s)
        self._aside: Contents | None = None

    @property
    def num_used(self) -> int:
        """Cells in use: those of the tree, and those of running slots beyond it; where none are
        shared, those of running slots alone."""
        if not self._backend.shares_cells:
            return sum(self._running.values())
        return self._tree.num_tokens + self.num_private

    @property
    def keeps_prefixes(self) -> bool:
        """Whether what one sequence computes is there for the next one, or after preemption."""
        return not self._backend.needs_states or self.copies.max_bytes > 0

    @property
    def num_free(self) -> int:
        return self._backend.num_cells - self.num_used

    @property
    def num_cached(self) -> int:
        """Evictable cells: those of prefixes that no running sequence holds."""
        if not self._backend.shares_cells:
            return 0
        return self._tree.num_tokens - self._tree.num_held_by(self._running_paths())

    def match(self, prefix: Prefix, limit: int, *, is_canonical: bool = False) -> Match:
        """Finds the longest known prefix of the first `limit` tokens; with `is_canonical`, only
        among cells computed in canonical shapes."""
        return self._tree.match(prefix, limit, canonical_only=is_canonical)

    def num_idle(self, prefix: Prefix, length: int) -> int:
        """How many of the first `length` tokens, which are known, are in cells that no running slot
        holds, or need ones of their own."""
        if not self._backend.shares_cells:
            return length
        return self._tree.num_idle(prefix, length, set(self._running))

    def acquire(
        self,
        prefix: Prefix,
        limit: int,
        *,
        is_canonical: bool = False,
        max_idle: int = MANY_IDLE,
    ) -> tuple[int, int]:
        """Takes a slot and fills it with the longest known prefix of the first `limit` tokens.

        `is_canonical` promises that the sequence is only ever computed in canonical shapes. If it
        runs alone, at most `max_idle` idle cells stay. Returns (slot, length of that prefix).
        """
        match = self.match(prefix, limit, is_canonical=is_canonical)
        if not self._running and self._is_slowed(match, max_idle):
            self._offload_all()
            match = self.match(prefix, limit, is_canonical=is_canonical)
        state = match.state.data if match.state else None  # held: making room may drop the copy
        if self._backend.needs_states and state is None:
            match = Match()
        tokens = list(prefix.tokens)
        slot = self._free.pop()
        length = self._running[slot] = match.num_held
        if is_canonical:
            self._canonical.add(slot)
        self._recorded[slot] = Prefix(tokens[:length], prefix.salt)
        if match.holder is not None:
            self._backend.copy(match.holder, slot, 0, length)
            self._tree.insert(self._recorded[slot], slot)
        if match.num_known - length >= (MIN_OFFLOADED if state is None else 1):
            for copy, start, stop in match.offloaded:
                if not self._restore_span(copy, slot, start, stop):
                    break
                self.advance(slot, stop - start)
                length = stop
            self._recorded[slot] = Prefix(tokens[:length], prefix.salt)
            self._tree.insert(self._recorded[slot], slot)
            self.num_private -= length - match.num_held
        if state is not None and not (
            length == match.num_known and self._backend.restore_state(slot, state, length)
        ):
            self._empty(slot)
        return slot, self._running[slot]

    def _empty(self, slot: int) -> None:
        """Drops all that a slot was given, without which there is no going on."""
        given = self._recorded[slot]
        self._tree.release(slot, given)
        self._backend.drop(slot, 0)
        self._running[slot], self._recorded[slot] = 0, Prefix([], given.salt)

    def advance(self, slot: int, num_tokens: int) -> None:
        """Counts `num_tokens` more tokens in the slot."""
        self._running[slot] += num_tokens
        self.num_private += num_tokens

    def retract(self, slot: int, num_tokens: int) -> None:
        """Drops the slot's last tokens, a rejected draft."""
        self.advance(slot, -num_tokens)
        self._backend.drop(slot, self._running[slot])

    def record(self, slot: int, tokens: list[int]) -> None:
        """Shares the contents of a running slot, `tokens`, with other requests."""
        known = self._recorded[slot]
        prefix = Prefix(tokens, known.salt)
        doubles = self._tree.insert(prefix, slot, is_canonical=slot in self._canonical)
        # Another slot computed the same tokens meanwhile: keep one copy of the cells.
        for holder, start, stop in doubles.theirs:
            self._share(holder, slot, start, stop)
        for holders, start, stop in doubles.ours:
            for holder in holders:
                self._share(slot, holder, start, stop)
        self.num_private -= len(tokens) - len(known.tokens)
        self._recorded[slot] = prefix

    def _share(self, source: int, target: int, start: int, stop: int) -> None:
        """Replaces the cells of `target` in a span with those of `source`."""
        self._backend.drop(target, start, stop)
        self._backend.copy(source, target, start, stop)

    def save_state(self, slot: int) -> None:
        """Saves the state after what was just recorded of a running slot."""
        self.states.save(slot, self._recorded[slot], is_canonical=slot in self._canonical)

    def finish(self, slot: int, tokens: list[int]) -> None:
        """Frees the slot; its `tokens` stay as a cached prefix."""
        self.record(slot, tokens)
        prefix = self._recorded[slot]
        is_at_end = self._running[slot] == len(prefix.tokens) > 0
        if self._backend.needs_states and is_at_end:
            is_canonical = slot in self._canonical
            self.states.save(slot, prefix, is_canonical=is_canonical, min_gap=MIN_OFFLOADED)
        if not self._tree.is_redundant(slot, prefix):
            cache_slot = self._take_cache_slot()
            self._backend.copy(slot, cache_slot, 0, len(tokens))
            self._tree.insert(prefix, cache_slot)
            self._recorded[cache_slot] = prefix
        self.num_private -= self._running.pop(slot) - len(prefix.tokens)
        self._canonical.discard(slot)
        self._release(slot)

    def make_room(self, num_tokens: int) -> bool:
        """Evicts the least useful prefixes until `num_tokens` cells are free; False if it can't."""
        while (missing := num_tokens - self.num_free) > 0:
            leaf = self._least_useful_leaf() if self._backend.shares_cells else None
            if leaf is None:
                return False
            self._evict(leaf, missing)
        return True

    def tidy(self, num_computed: int, *, keeps_order: bool = False) -> None:
        """Offloads idle prefixes if many idle cells slow down every step; with `keeps_order`, cells
        of running sequences are put in order where that leaves holes.

        Called once per step with the number of tokens it computed: about as many are offloaded,
        which takes a hundredth of the step's time and keeps up with any load.
        """
        is_useful = self._backend.idle_cells_slow_steps and self.copies.max_bytes > 0
        if not is_useful or not self._tidying.looks():
            return
        num_offloaded = 0
        num_held = self.num_used - self.num_cached
        while self._tidying.are_too_many(self.num_cached, num_held, keeps_order=keeps_order):
            leaf = self._least_useful_leaf()
            if leaf is None:
                break
            if num_offloaded >= num_computed:
                return  # the next step continues
            num_offloaded += min(len(leaf.tokens), self._max_piece)
            self._evict(leaf, len(leaf.tokens))
        self._tidying.end()

    def copy_next(self, prefix: Prefix, start: int) -> KeptSpan | None:
        """Copies the first part of a prefix after its first `start` tokens that has no file yet, a
        piece of limited size. None if there is no such part, or no room in host
        memory."""
        for node in self._tree.path(prefix):
            if node.end <= start:
                continue
            if node.offloaded is None:
                if not node.children and len(node.tokens) < MIN_OFFLOADED:
                    return None
                node = self._tree.cut_first(node, self._max_piece, self._backend.max_saved)
                try:
                    self.copies.offload(node)
                except MemoryError:
                    return None
            copy = node.offloaded
            if copy and not copy.file:
                return self._tree.span(prefix.salt, node) if copy.data is not None else None
        return None

    def take_out(self) -> list[KeptSpan]:
        """The most useful prefixes as copies, parents first, as many as host memory has room for.
        Nothing may run; the cells are empty afterwards."""
        assert not self._running
        while (leaf := self._least_useful_leaf()) is not None:
            num_bytes = self._tree.num_tokens * self.copies.bytes_per_cell
            if num_bytes > self.copies.max_bytes:
                self._give_up(leaf, len(leaf.tokens))
            else:
                self._evict(leaf, len(leaf.tokens))
        return [span._replace(age=self._tree.age(node)) for node, span in self._tree.spans()]

    def take_in(self, spans: list[KeptSpan]) -> list[OffloadedCells]:
        """Fills a new cache with copies, parents first. Returns those that are of no use."""
        self._tree.adopt(spans)
        self.copies.recount()
        used = {span.cells for _, span in self._tree.spans()}
        return [span.cells for span in spans if span.cells not in used]

    def relay(self) -> None:
        """Rewrites the cells of all running slots in prefix order, node by node; idle prefixes are
        offloaded. Cells within a node keep their order.

        Raises MemoryError and leaves the running slots as they were, or DecodeFailed if their
        contents are lost.
        """
        with self._tidying.copying(self.num_used):
            contents = self._contents()
            self._backend.clear()
            contents.restore()

    def set_aside(self, slot: int) -> None:
        """Leaves the cells of one running slot alone, from the first one on and without gaps, until
        `bring_back`. Raises as `relay` does."""
        self._aside = self._contents()
        self._backend.clear()
        self._aside.restore_one(slot)

    def bring_back(self) -> None:
        """Restores what was set aside. Raises DecodeFailed if that is lost."""
        if self._aside:
            self._aside.restore()
            self._aside = None

    def _contents(self) -> Contents:
        self._evict_idle()
        held = [(node.holders, node.depth, node.end) for node in self._tree.nodes(only_held=True)]
        private = [
            ({slot}, len(self._recorded[slot].tokens), end) for slot, end in self._running.items()
        ]
        return save_spans(self._backend, self.copies, held + private, self._running)

    def distrust(self, slot: int) -> None:
        """Marks what the slot computes from now on as not canonical."""
        self._canonical.discard(slot)

    def drop_padding(self) -> None:
        """Drops the cells of padding rows."""
        self._backend.drop(self._transfer_slot, 0)

    def _running_paths(self) -> Iterable[Prefix]:
        """The recorded prefixes of the running slots."""
        return (self._recorded[slot] for slot in self._running)

    def _is_slowed(self, match: Match, max_idle: int) -> bool:
        """Whether a sequence that runs alone would attend over `max_idle` or more idle cells in
        every step, and there is room to offload them."""
        num_idle = self._tree.num_tokens - match.num_held
        has_room = self._tree.num_tokens * self.copies.bytes_per_cell < self.copies.max_bytes
        return has_room and self._backend.idle_cells_slow_steps and num_idle >= max_idle

    def _offload_all(self) -> None:
        """Empties all cells while nothing runs; what is needed is restored in order."""
        self._evict_idle()
        self._backend.clear()

    def _evict_idle(self) -> None:
        running = set(self._running)
        for node in reversed(list(self._tree.nodes(only_held=True))):  # bottom up
            start, leaf = node.depth, node
            while leaf.is_idle(running) and leaf.depth >= start:
                leaf = self._evict(leaf, len(leaf.tokens))  # in pieces perhaps, the last one first
        while (rest := self._least_useful_leaf()) is not None:  # left over where a copy failed
            self._evict(rest, len(rest.tokens))

    def _least_useful_leaf(self) -> Node | None:
        leaves = self._tree.idle_leaves(set(self._running))
        return min(leaves, key=self._tree.usefulness, default=None)

    def _evict(self, leaf: Node, num_tokens: int) -> Node:
        """Evicts the leaf's last `num_tokens` cells, or a whole piece if it is offloaded. Returns
        the node above these."""
        is_usable = leaf.state or not self._backend.needs_states
        is_worth_offloading = leaf.children or (is_usable and len(leaf.tokens) >= MIN_OFFLOADED)
        if self.copies.max_bytes and is_worth_offloading:
            self._tree.cut_last(leaf, self._max_piece, self._backend.max_saved)
            with contextlib.suppress(MemoryError):  # then it is recomputed when needed
                self.copies.offload(leaf)
            num_tokens = len(leaf.tokens)
        above = self._give_up(leaf, num_tokens)
        self.copies.fit()  # perhaps it has no place for this copy
        return above

    def _give_up(self, leaf: Node, num_tokens: int) -> Node:
        """Frees the leaf's last `num_tokens` cells, or less if that would cut a picture. Returns
        the node above these."""
        self._tree.cut_last(leaf, num_tokens)
        holders, start, above = list(leaf.holders), leaf.depth, leaf.parent
        assert above is not None
        self._tree.give_up(leaf)
        for slot in holders:
            self._backend.drop(slot, start)
            tokens, salt = self._recorded[slot]
            self._recorded[slot] = Prefix(tokens[:start], salt)
            if not start:
                self._forget(slot)
        return above

    def _restore_span(self, copy: OffloadedCells, slot: int, start: int, stop: int) -> bool:
        """Restores positions [start, stop) to `slot`; False if there are too few cells, or the
        copy is in a file only, perhaps since room was made."""
        has_room = self.make_room(copy.stop - copy.start)
        return has_room and self.copies.restore(copy, slot, start, stop)

    def _take_cache_slot(self) -> int:
        """Takes a free cache slot; if there is none, the least useful one loses its prefix."""
        if not self._free_cache_slots:
            cache_slots = [slot for slot in self._recorded if slot not in self._running]
            redundant = (k for k in cache_slots if self._tree.is_redundant(k, self._recorded[k]))
            victim = next(redundant, None)
            if victim is None:
                leaf = self._least_useful_leaf()
                assert leaf is not None, "every cache slot ends in a leaf of its own"
                victim = next(iter(leaf.holders))
            self._park(victim)
            self._release(victim)
        return self._free_cache_slots.pop()

    def _park(self, slot: int) -> None:
        """Copies what only this slot holds to host memory."""
        for node in list(self._tree.path(self._recorded[slot])):
            while self.copies.max_bytes and len(node.holders) == 1:
                piece = self._tree.cut_first(node, self._max_piece, self._backend.max_saved)
                with contextlib.suppress(MemoryError):  # then it is recomputed when needed
                    self.copies.offload(piece)
                if piece is node:
                    break

    def _release(self, slot: int) -> None:
        self._tree.release(slot, self._recorded[slot])
        self._backend.drop(slot, 0)
        self._forget(slot)

    def _forget(self, slot: int) -> None:
        self._recorded.pop(slot, None)
        pool = self._free if slot < self._backend.num_sequences else self._free_cache_slots
        pool.append(slot)
