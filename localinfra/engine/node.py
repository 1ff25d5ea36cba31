"""A node of the radix tree of prefixes. Plain values: `radix.py` changes them."""

from collections.abc import Sequence

from localinfra.engine.offloaded import OffloadedCells
from localinfra.engine.runs import begins_with


class Node:
    """A run of tokens after its parent's path; `depth` is the position of its first token.

    `is_canonical`: its cells were computed in shapes that give the same bits every time. `state`: a
    state to go on from at its end, for models that need one.
    """

    __slots__ = (
        "children",
        "depth",
        "holders",
        "is_canonical",
        "last_used",
        "offloaded",
        "parent",
        "state",
        "tokens",
    )  # fmt: skip

    def __init__(self, tokens: Sequence[int], parent: "Node | None", depth: int, last_used: int):
        self.tokens = tokens
        self.parent = parent
        self.depth = depth
        self.last_used = last_used
        self.children: dict[int | tuple[int, ...], Node] = {}
        self.holders: set[int] = set()
        self.is_canonical = False
        self.offloaded: OffloadedCells | None = None  # covers at least the run
        self.state: OffloadedCells | None = None  # of no cells, at the run's end

    @property
    def key(self) -> int | tuple[int, ...]:
        """Its place among the children of its parent."""
        return begins_with(self.tokens)

    @property
    def end(self) -> int:
        return self.depth + len(self.tokens)

    def is_idle(self, running: set[int]) -> bool:
        """Whether it occupies cells that no running slot holds."""
        return bool(self.holders) and running.isdisjoint(self.holders)

    @property
    def state_before(self) -> int:
        """The last position before its end that has a state; 0 needs none."""
        above = self.parent
        while above is not None and above.state is None:
            above = above.parent
        return above.end if above else 0
