"""A radix tree over token ids: which slots hold the cells of which prefix. Touches no cells.

Every node is a run of tokens; the path from the root to a node's end is a prefix, and `holders`
are the slots that hold all of it. Slots of running sequences count as references: a node with one
is never given up. A node without holders is parked: its cells are gone, a copy of them is kept in
host memory. What is held or parked has ancestors that are.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from localinfra.engine.parking import ParkedCells


class Node:
    """A run of tokens after its parent's path; `depth` is where the run starts."""

    __slots__ = ("children", "depth", "holders", "last_used", "parent", "parked", "tokens")

    def __init__(self, tokens: Sequence[int], parent: "Node | None", depth: int, last_used: int):
        self.tokens = tokens
        self.parent = parent
        self.depth = depth
        self.last_used = last_used
        self.children: dict[int, Node] = {}
        self.holders: set[int] = set()
        self.parked: ParkedCells | None = None  # covers the run, and maybe more

    @property
    def end(self) -> int:
        return self.depth + len(self.tokens)

    def is_idle(self, running: set[int]) -> bool:
        """Whether it occupies cells that no running slot holds."""
        return bool(self.holders) and running.isdisjoint(self.holders)


class Match(msgspec.Struct):
    """The longest known prefix of some tokens: what is in cells, and what is parked after it."""

    num_held: int = 0
    holder: int | None = None  # a slot that holds these
    parked: list[tuple[ParkedCells, int, int]] = []  # and the span of each that is wanted

    @property
    def num_known(self) -> int:
        return self.parked[-1][2] if self.parked else self.num_held


def common_prefix(left: Sequence[int], right: Sequence[int], start: int = 0) -> int:
    """Length of the longest common prefix, given that the first `start` tokens are equal.

    Slices are compared in C and halved, so a long prompt costs microseconds.
    """
    low, high = start, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class RadixTree:
    """Prefixes and their holders. `num_tokens` is the sum of all held runs: the cells they
    occupy."""

    def __init__(self) -> None:
        self.root = Node((), None, 0, 0)
        self.num_tokens = 0
        self._clock = 0

    def match(self, tokens: Sequence[int], limit: int) -> Match:
        """Longest known prefix of `tokens[:limit]`. Marks the path as used now."""
        self._clock += 1
        match = Match()
        node, length = self.root, 0
        while length < limit:
            child = node.children.get(tokens[length])
            if child is None:
                break
            child.last_used = self._clock
            run = child.tokens
            start = length
            shared = common_prefix(run, tokens[length : min(limit, child.end)])
            length += shared
            if child.holders:
                match.num_held, match.holder = length, next(iter(child.holders))
            else:
                assert child.parked is not None
                match.parked.append((child.parked, start, length))
            node = child
            if shared < len(run):
                break
        return match

    def insert(self, tokens: Sequence[int], slot: int) -> list[tuple[int, int, int]]:
        """Records that `slot` holds all of `tokens`.

        Returns the spans (holder, start, stop) that others held already: the caller holds them
        twice and should share the holder's cells instead.
        """
        self._clock += 1
        node, length = self.root, 0
        doubles: list[tuple[int, int, int]] = []
        while length < len(tokens):
            child = node.children.get(tokens[length])
            if child is None:
                child = Node(list(tokens[length:]), node, length, self._clock)
                node.children[tokens[length]] = child
            else:
                shared = common_prefix(child.tokens, tokens[length : child.end])
                if shared < len(child.tokens):
                    child = self.split(child, shared)
                if child.holders and slot not in child.holders:
                    doubles.append((next(iter(child.holders)), child.depth, child.end))
            if not child.holders:
                self.num_tokens += len(child.tokens)
            child.holders.add(slot)
            child.last_used = self._clock
            node, length = child, child.end
        self._join(node)
        return doubles

    def release(self, slot: int, tokens: Sequence[int]) -> None:
        """Forgets that `slot` holds `tokens`; runs that no one holds or parks leave the tree."""
        for node in reversed(list(self._path(tokens))):
            if slot in node.holders:
                node.holders.discard(slot)
                if not node.holders:
                    self._vacate(node)

    def is_redundant(self, slot: int, tokens: Sequence[int]) -> bool:
        """Whether other slots hold all that this one does."""
        return all(len(node.holders) > 1 for node in self._path(tokens) if slot in node.holders)

    def idle_leaves(self, running: set[int]) -> list[Node]:
        """Held nodes that no running slot holds, and below which no one holds anything."""
        return [
            node
            for node in self.nodes(only_held=True)
            if node.is_idle(running) and not any(c.holders for c in node.children.values())
        ]

    def parked_leaves(self) -> list[Node]:
        """Parked nodes below which nothing is known."""
        return [node for node in self.nodes() if not node.holders and not node.children]

    def num_held_by(self, paths: Iterable[Sequence[int]]) -> int:
        """Tokens in the runs along these paths, each run counted once."""
        return sum(len(node.tokens) for node in {node for p in paths for node in self._path(p)})

    def num_idle(self, tokens: Sequence[int], length: int, running: set[int]) -> int:
        """Of the first `length` tokens, all of them in cells, those that no running slot holds."""
        node, held = self.root, 0
        while held < length:
            node = node.children[tokens[held]]
            if running.isdisjoint(node.holders):
                break
            held = min(node.end, length)
        return length - held

    def age(self, node: Node) -> int:
        """How many lookups and insertions ago the node was last on a path; at least 1."""
        return self._clock - node.last_used + 1

    def cut(self, node: Node, num_tokens: int) -> None:
        """Leaves only the last `num_tokens` in the node; a new parent has those before."""
        if num_tokens < len(node.tokens):
            self.split(node, len(node.tokens) - num_tokens)

    def give_up(self, leaf: Node, num_tokens: int) -> None:
        """No one holds the last `num_tokens` of the leaf any more."""
        self.cut(leaf, num_tokens)
        leaf.holders.clear()
        self._vacate(leaf)

    def forget(self, node: Node) -> None:
        """Drops the node's parked copy, and the node if no one holds it."""
        node.parked = None
        if not node.holders:
            self._remove(node)

    def nodes(self, only_held: bool = False) -> Iterator[Node]:
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            if node.holders or not only_held:  # below what no one holds no one holds anything
                stack.extend(node.children.values())
                yield node

    def _path(self, tokens: Sequence[int]) -> Iterator[Node]:
        """The nodes along `tokens`, as far as they go."""
        node, length = self.root, 0
        while length < len(tokens):
            child = node.children.get(tokens[length])
            if child is None or child.end > len(tokens):
                return
            yield child
            node, length = child, child.end

    def _vacate(self, node: Node) -> None:
        """No one holds the node any more."""
        self.num_tokens -= len(node.tokens)
        if node.parked is None:
            self._remove(node)

    def _remove(self, node: Node) -> None:
        """Takes the node out, with what is parked below it: that can't be reached without it."""
        assert node.parent is not None and not node.holders
        del node.parent.children[node.tokens[0]]
        node.parent = None

    def split(self, node: Node, at: int) -> Node:
        """Cuts a run in two; returns the upper part, held by the same slots."""
        assert node.parent is not None
        upper = Node(node.tokens[:at], node.parent, node.depth, node.last_used)
        upper.holders = set(node.holders)
        upper.parked = node.parked
        node.parent.children[upper.tokens[0]] = upper
        upper.children[node.tokens[at]] = node
        node.tokens, node.parent, node.depth = node.tokens[at:], upper, node.depth + at
        return upper

    def _join(self, node: Node) -> None:
        """Merges a node that only continues its parent, so that chunks do not become chains."""
        parent = node.parent
        if parent is None or parent is self.root or len(parent.children) > 1:
            return
        if parent.holders == node.holders and not node.children and not parent.parked:
            parent.tokens = [*parent.tokens, *node.tokens]
            parent.children = {}
