"""A radix tree over token ids: which slots hold the cells of which prefix. Touches no cells.

Every node is a run of tokens; the path from the root to a node's end is a prefix, and `holders`
are the slots that hold all of it. Slots of running sequences count as references: a node with one
is never given up.
"""

from collections.abc import Iterator, Sequence


class Node:
    """A run of tokens after its parent's path; `depth` is where the run starts."""

    __slots__ = ("children", "depth", "holders", "last_used", "parent", "tokens")

    def __init__(self, tokens: Sequence[int], parent: "Node | None", depth: int, last_used: int):
        self.tokens = tokens
        self.parent = parent
        self.depth = depth
        self.last_used = last_used
        self.children: dict[int, Node] = {}
        self.holders: set[int] = set()

    @property
    def end(self) -> int:
        return self.depth + len(self.tokens)


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
    """Prefixes and their holders. `num_tokens` is the sum of all runs: the cells they occupy."""

    def __init__(self) -> None:
        self.root = Node((), None, 0, 0)
        self.num_tokens = 0
        self._clock = 0

    def match(self, tokens: Sequence[int], limit: int) -> tuple[int, int | None]:
        """Longest cached prefix of `tokens[:limit]`: its length and a slot that holds it.

        Marks the path as used now.
        """
        self._clock += 1
        node, length, holder = self.root, 0, None
        while length < limit:
            child = node.children.get(tokens[length])
            if child is None:
                break
            child.last_used = self._clock
            run = child.tokens
            shared = common_prefix(run, tokens[length : min(limit, child.end)])
            length += shared
            holder = next(iter(child.holders))
            node = child
            if shared < len(run):
                break
        return length, holder

    def insert(self, tokens: Sequence[int], slot: int) -> list[tuple[int, int, int]]:
        """Records that `slot` holds all of `tokens`.

        Returns the spans (holder, start, stop) that were there already without this slot: the
        caller holds them twice and should share the holder's cells instead.
        """
        self._clock += 1
        node, length = self.root, 0
        doubles: list[tuple[int, int, int]] = []
        while length < len(tokens):
            child = node.children.get(tokens[length])
            if child is None:
                child = Node(list(tokens[length:]), node, length, self._clock)
                node.children[tokens[length]] = child
                self.num_tokens += len(child.tokens)
            else:
                shared = common_prefix(child.tokens, tokens[length : child.end])
                if shared < len(child.tokens):
                    child = self._split(child, shared)
                if slot not in child.holders:
                    doubles.append((next(iter(child.holders)), child.depth, child.end))
            child.holders.add(slot)
            child.last_used = self._clock
            node, length = child, child.end
        self._join(node)
        return doubles

    def release(self, slot: int, tokens: Sequence[int]) -> None:
        """Forgets that `slot` holds `tokens`; runs without another holder leave the tree."""
        for node in reversed(list(self._path(tokens))):
            node.holders.discard(slot)
            if not node.holders:
                self._remove(node)

    def is_redundant(self, slot: int, tokens: Sequence[int]) -> bool:
        """Whether other slots hold all that this one does."""
        return all(len(node.holders) > 1 for node in self._path(tokens) if slot in node.holders)

    def oldest_leaf(self, running: set[int]) -> Node | None:
        """The least recently used leaf that no running slot holds."""
        leaves = [node for node in self.nodes() if not node.children]
        idle = [leaf for leaf in leaves if running.isdisjoint(leaf.holders)]
        return min(idle, key=lambda leaf: leaf.last_used, default=None)

    def num_evictable(self, running: set[int]) -> int:
        """Tokens in runs that no running slot holds."""
        return sum(len(node.tokens) for node in self.nodes() if running.isdisjoint(node.holders))

    def num_idle(self, tokens: Sequence[int], length: int, running: set[int]) -> int:
        """Of the first `length` tokens, all of them cached, those that no running slot holds."""
        node, held = self.root, 0
        while held < length:
            node = node.children[tokens[held]]
            if running.isdisjoint(node.holders):
                break
            held = min(node.end, length)
        return length - held

    def trim(self, leaf: Node, num_tokens: int) -> None:
        """Cuts the last `num_tokens` off a leaf; a leaf without tokens leaves the tree."""
        if num_tokens >= len(leaf.tokens):
            self._remove(leaf)
        else:
            leaf.tokens = leaf.tokens[:-num_tokens]
            self.num_tokens -= num_tokens

    def nodes(self) -> Iterator[Node]:
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
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

    def _remove(self, node: Node) -> None:
        assert node.parent is not None and not node.children
        del node.parent.children[node.tokens[0]]
        self.num_tokens -= len(node.tokens)

    def _split(self, node: Node, at: int) -> Node:
        """Cuts a run in two; returns the upper part, held by the same slots."""
        assert node.parent is not None
        upper = Node(node.tokens[:at], node.parent, node.depth, node.last_used)
        upper.holders = set(node.holders)
        node.parent.children[upper.tokens[0]] = upper
        upper.children[node.tokens[at]] = node
        node.tokens, node.parent, node.depth = node.tokens[at:], upper, node.depth + at
        return upper

    def _join(self, node: Node) -> None:
        """Merges a node that only continues its parent, so that chunks do not become chains."""
        parent = node.parent
        if parent is None or parent is self.root or len(parent.children) > 1:
            return
        if parent.holders == node.holders and not node.children:
            parent.tokens = [*parent.tokens, *node.tokens]
            parent.children = {}
