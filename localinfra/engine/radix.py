"""A radix tree over token ids: which slots hold the cells of which prefix. Touches no cells.

Every node is a run of tokens; the path from the root to a node's end is a prefix, and `holders`
are the slots that hold all of it. Slots of running sequences count as references: a node with one
is never evicted. A node without holders is offloaded: its cells are gone, but there is a copy of
them. Every ancestor of a held or offloaded node is held or offloaded.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from localinfra.engine.node import Node
from localinfra.engine.offloaded import KeptSpan, OffloadedCells
from localinfra.engine.runs import (
    begins_with,
    border_before,
    common_prefix,
    first_piece,
    last_piece,
    shared_run,
)

# At this depth a token costs twice as much to compute as the first, since it attends to all before
# it (measured: 26 % more at a mean depth of 950).
DOUBLE_COST_DEPTH = 3600


class Prefix(NamedTuple):
    """Tokens, and the salt of their requests: different salts never share a prefix."""

    tokens: Sequence[int]
    salt: str = ""


class Match(msgspec.Struct):
    """The longest known prefix of some tokens: a part in cells, then an offloaded part."""

    num_held: int = 0
    holder: int | None = None  # a slot that holds these
    offloaded: list[tuple[OffloadedCells, int, int]] = []  # with the span to restore
    state: OffloadedCells | None = None  # to go on from there, for models that need one
    num_seen: int = 0  # tokens that the tree knows, whether one can go on from there or not

    @property
    def num_known(self) -> int:
        return self.offloaded[-1][2] if self.offloaded else self.num_held

    def end_by(self, position: int) -> None:
        """Leaves out what comes from this position on."""
        self.num_held = min(self.num_held, position)
        self.holder = self.holder if self.num_held else None
        self.offloaded = [(c, a, min(b, position)) for c, a, b in self.offloaded if a < position]

    @property
    def unread(self) -> list[OffloadedCells]:
        """The copies that are in files only."""
        return [copy for copy in self.copies if copy.data is None]

    @property
    def copies(self) -> list[OffloadedCells]:
        """All that must be in host memory to use it."""
        return [copy for copy, _, _ in self.offloaded] + ([self.state] if self.state else [])


def compute_cost(start: int, stop: int) -> float:
    """Of the tokens at these positions, in what the first token costs."""
    return (stop - start) * (1 + (start + stop) / 2 / DOUBLE_COST_DEPTH)


class Doubles(NamedTuple):
    """Spans that a slot and others hold in separate cells: one copy of each should be shared."""

    theirs: list[tuple[int, int, int]]  # (holder, start, stop) whose cells stay
    ours: list[tuple[list[int], int, int]]  # (holders, start, stop) that get the slot's cells


class RadixTree:
    """Prefixes and their holders. `num_tokens` is the length of all held runs, which is the number
    of cells they occupy."""

    def __init__(self, *, needs_states: bool = False) -> None:
        """With `needs_states`, a prefix is of use up to a state only."""
        self.needs_states = needs_states
        self._roots: dict[str, Node] = {}  # by salt
        self.num_tokens = 0
        self._clock = 0

    def match(self, prefix: Prefix, limit: int, *, canonical_only: bool = False) -> Match:
        """Finds the longest known prefix of the first `limit` tokens and marks its path as used."""
        self._clock += 1
        match, usable = Match(), Match()
        tokens = prefix.tokens
        node, length = self._root(prefix), 0
        while length < limit:
            child = node.children.get(begins_with(tokens, length))
            if child is None or (canonical_only and not child.is_canonical):
                break
            child.last_used = self._clock
            run = child.tokens
            start = length
            shared = common_prefix(run, tokens[length : min(limit, child.end)])
            length += shared
            if child.holders:
                match.num_held, match.holder = length, next(iter(child.holders))
            else:
                assert child.offloaded is not None
                # The parts of a split run share one copy, which is restored once and in order.
                if match.offloaded and match.offloaded[-1][0] is child.offloaded:
                    start = match.offloaded.pop()[1]
                match.offloaded.append((child.offloaded, start, length))
            node = child
            if shared < len(run):
                break
            if child.state and (child.state.is_canonical or not canonical_only):
                usable = Match(match.num_held, match.holder, [*match.offloaded], child.state)
        if self.needs_states:
            match = usable
        match.end_by(border_before(tokens, match.num_known))
        match.num_seen = border_before(tokens, length)
        return match

    def insert(self, prefix: Prefix, slot: int, *, is_canonical: bool | None = None) -> Doubles:
        """Records that `slot` holds the prefix. `is_canonical` is about cells of its own; None: it
        shares cells that the tree knows.

        Returns the spans that others hold too: their cells stay, unless only the slot's are
        canonical."""
        self._clock += 1
        tokens = prefix.tokens
        node, length = self._root(prefix), 0
        doubles = Doubles([], [])
        while length < len(tokens):
            child = node.children.get(begins_with(tokens, length))
            if child is None:
                child = Node(list(tokens[length:]), node, length, self._clock)
                child.is_canonical = bool(is_canonical)
                node.children[child.key] = child
            else:
                shared = shared_run(child.tokens, tokens[length : child.end])
                if shared < len(child.tokens):
                    child = self.split(child, shared)
                if is_canonical is not None and slot not in child.holders:
                    self._merge(child, is_canonical, doubles)
            if not child.holders:
                self.num_tokens += len(child.tokens)
            child.holders.add(slot)
            child.last_used = self._clock
            node, length = child, child.end
        self._join(node)
        return doubles

    @staticmethod
    def _merge(node: Node, is_canonical: bool, doubles: Doubles) -> None:
        """Adds a slot that holds the node's tokens in cells of its own, `is_canonical` or not."""
        if node.holders and (node.is_canonical or not is_canonical):
            doubles.theirs.append((next(iter(node.holders)), node.depth, node.end))
            return
        if node.holders:
            doubles.ours.append((list(node.holders), node.depth, node.end))
        if node.is_canonical != is_canonical:
            node.offloaded = node.state = None  # copies of the other kind
            node.is_canonical = is_canonical

    def release(self, slot: int, prefix: Prefix) -> None:
        """Removes `slot` as a holder; runs neither held nor offloaded leave the tree."""
        for node in reversed(list(self.path(prefix))):
            if slot in node.holders:
                node.holders.discard(slot)
                if not node.holders:
                    self._vacate(node)

    def is_redundant(self, slot: int, prefix: Prefix) -> bool:
        """Whether other slots hold everything that this one holds."""
        return all(len(node.holders) > 1 for node in self.path(prefix) if slot in node.holders)

    def idle_leaves(self, running: set[int]) -> list[Node]:
        """Nodes held by idle slots only, without held children."""
        return [
            node
            for node in self.nodes(only_held=True)
            if node.is_idle(running) and not any(c.holders for c in node.children.values())
        ]

    def num_held_by(self, paths: Iterable[Prefix]) -> int:
        """The number of tokens along these paths, each run counted once."""
        return sum(len(node.tokens) for node in {node for p in paths for node in self.path(p)})

    def num_idle(self, prefix: Prefix, length: int, running: set[int]) -> int:
        """The number of the first `length` tokens (all in cells) that no running slot holds."""
        node, held = self._root(prefix), 0
        while held < length:
            node = node.children[begins_with(prefix.tokens, held)]
            if running.isdisjoint(node.holders):
                break
            held = min(node.end, length)
        return length - held

    def age(self, node: Node) -> int:
        """Lookups and insertions since the node was last on a path; at least 1."""
        return self._clock - node.last_used + 1

    def usefulness(self, node: Node) -> float:
        """Recompute cost saved per cell, divided by the node's age."""
        if self.needs_states and not node.state and not node.children:
            return 0.0
        return compute_cost(node.depth, node.end) / len(node.tokens) / self.age(node)

    def state_usefulness(self, node: Node) -> float:
        """Recompute cost that the node's state saves, divided by the node's age."""
        return compute_cost(node.state_before, node.end) / self.age(node)

    def cut_first(self, node: Node, num_tokens: int, most: int) -> Node:
        """Splits off the first `num_tokens`, or less if that would cut a picture, or one picture of
        at most `most`. Returns the node that has them."""
        size = len(node.tokens)
        at = first_piece(node.tokens, num_tokens, most) if num_tokens < size else size
        return self.split(node, at) if at < size else node

    def cut_last(self, node: Node, num_tokens: int, most: int = sys.maxsize) -> None:
        """Keeps only the last `num_tokens` in the node, likewise; a new parent gets others."""
        if at := last_piece(node.tokens, min(num_tokens, len(node.tokens)), most):
            self.split(node, at)

    def give_up(self, leaf: Node) -> None:
        """Removes all holders from the leaf."""
        leaf.holders.clear()
        self._vacate(leaf)

    def forget(self, node: Node) -> None:
        """Drops the node's offloaded copy from memory. If there is no file of it, the copy is lost,
        and so is the node if it has no holders."""
        if node.offloaded and node.offloaded.file and node.offloaded.data is not None:
            node.offloaded.data = None
            return
        node.offloaded = None
        if not node.holders:
            self._remove(node)

    def forget_state(self, node: Node) -> None:
        """Drops the node's state from memory. If there is no file of it, it is lost."""
        if node.state and node.state.file:
            node.state.data = None
        else:
            node.state = None

    def lose(self, copy: OffloadedCells) -> None:
        """Drops a copy that turned out to be unusable."""
        for node in self.nodes():
            if node.state is copy:
                node.state = None
        for node in [node for node in self.nodes() if node.offloaded is copy]:
            node.offloaded = None
            if not node.holders and node.parent is not None:  # else it left with its parent
                self._remove(node)

    def spans(self) -> Iterator[tuple[Node, KeptSpan]]:
        """Every copy once, after those it continues, with the topmost node that it covers."""
        seen: set[OffloadedCells] = set()
        for salt, root in self._roots.items():
            for node in self._below(root):
                copy = node.offloaded
                if copy is not None and copy not in seen:
                    seen.add(copy)
                    if span := self.span(salt, node):
                        yield node, span
                if copy is not None and node.state:
                    yield node, KeptSpan(salt, copy, node.state)

    def span(self, salt: str, node: Node) -> KeptSpan | None:
        """The node's copy with its parent; None if there is no copy that it continues."""
        copy, above = node.offloaded, node.parent
        assert copy is not None
        while above is not None and above.end > copy.start:
            above = above.parent
        if above is None or above.end < copy.start or (copy.start and not above.offloaded):
            return None
        return KeptSpan(salt, above.offloaded, copy)

    def adopt(self, spans: list[KeptSpan]) -> None:
        """Records copies from elsewhere, the least recently used first. Those are ignored whose
        parents are missing. Of two copies of the same tokens the canonical one stays."""
        by_copy = {span.cells: span for span in spans}
        ends: dict[OffloadedCells, Node] = {}
        for span in sorted(spans, key=lambda span: -span.age):
            chain = [span]
            while (parent := chain[-1].parent) in by_copy and parent not in ends:
                chain.append(by_copy[parent])
            for each in reversed(chain):
                self._adopt(each, ends)

    def _adopt(self, span: KeptSpan, ends: dict[OffloadedCells, Node]) -> None:
        """`ends` has the last node of each copy adopted before."""
        copy = span.cells
        node = ends.get(span.parent) if span.parent else self._root(Prefix((), span.salt))
        if node is None:
            return
        while node.parent is not None and node.depth >= copy.start:
            node = node.parent
        if node.end > copy.start:
            node = self.split(node, copy.start - node.depth)
        self._clock += 1
        length = 0
        while length < len(copy.tokens):
            child = node.children.get(begins_with(copy.tokens, length))
            if child is None:
                child = Node(copy.tokens[length:], node, node.end, self._clock)
                node.children[child.key] = child
            else:
                shared = shared_run(child.tokens, copy.tokens[length:])
                if shared < len(child.tokens):
                    child = self.split(child, shared)
            if child.offloaded is None or (copy.is_canonical and not child.is_canonical):
                child.offloaded, child.is_canonical, child.state = copy, copy.is_canonical, None
            node = child
            length += len(child.tokens)
        is_right = node.is_canonical or not copy.is_canonical
        if not copy.tokens and is_right and (copy.is_canonical or not node.state):
            node.state = copy
        ends[copy] = node
        while node.parent is not None:  # a prefix was used when what continues it was
            node.last_used = self._clock
            node = node.parent

    def nodes(self, only_held: bool = False) -> Iterator[Node]:
        """All nodes, parents before children."""
        for root in self._roots.values():
            yield from self._below(root, only_held)

    @staticmethod
    def _below(root: Node, only_held: bool = False) -> Iterator[Node]:
        stack = list(root.children.values())
        while stack:
            node = stack.pop()
            if node.holders or not only_held:  # an unheld node has no held descendants
                stack.extend(node.children.values())
                yield node

    def _root(self, prefix: Prefix) -> Node:
        return self._roots.setdefault(prefix.salt, Node((), None, 0, 0))

    def path(self, prefix: Prefix) -> Iterator[Node]:
        """The nodes along the prefix, as far as they go."""
        tokens = prefix.tokens
        node, length = self._root(prefix), 0
        while length < len(tokens):
            child = node.children.get(begins_with(tokens, length))
            if child is None or child.end > len(tokens):
                return
            yield child
            node, length = child, child.end

    def _vacate(self, node: Node) -> None:
        """Accounts for a node that lost its last holder."""
        self.num_tokens -= len(node.tokens)
        if node.offloaded is None:
            self._remove(node)

    def _remove(self, node: Node) -> None:
        """Removes the node with its offloaded descendants, which are unreachable without it."""
        assert node.parent is not None and not node.holders
        del node.parent.children[node.key]
        node.parent = None

    def split(self, node: Node, at: int) -> Node:
        """Splits a run in two; returns the upper part, held by the same slots."""
        assert node.parent is not None
        upper = Node(node.tokens[:at], node.parent, node.depth, node.last_used)
        upper.holders = set(node.holders)
        upper.is_canonical = node.is_canonical
        upper.offloaded = node.offloaded
        node.parent.children[upper.key] = upper
        node.tokens, node.parent, node.depth = node.tokens[at:], upper, node.depth + at
        upper.children[node.key] = node
        return upper

    def _join(self, node: Node) -> None:
        """Merges a node into its parent if it only continues it, or chunks would form chains."""
        parent = node.parent
        if parent is None or parent.parent is None or len(parent.children) > 1:
            return
        is_alike = (parent.holders, parent.is_canonical) == (node.holders, node.is_canonical)
        has_copies = parent.offloaded or node.offloaded or parent.state
        if is_alike and not node.children and not has_copies:
            parent.state = node.state
            parent.tokens = [*parent.tokens, *node.tokens]
            parent.children = {}
