"""Copies of cells outside the KV cache, and the shelf on which they outlive an engine. Plain
values: neither cells nor files are touched here.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:  # the server imports this file, but not numpy before a model that needs it
    import numpy as np
    from numpy.typing import NDArray

MIN_OFFLOADED = 16  # tokens; fewer are recomputed as fast as looked up and copied
MAX_OFFLOADED = 512  # tokens per copy: it holds up the steps for a few milliseconds


def pieces(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    """[start, stop) cut into pieces of at most `size`."""
    return [(at, min(at + size, stop)) for at in range(start, stop, size)]


class OffloadedCells:
    """A copy of the cells of positions [start, stop) of a prefix, in the backend's own format.

    It is in host memory (`data`), in a file, or in both. Restoring takes microseconds per token,
    recomputing milliseconds: evicted cells are worth keeping while there is room.
    """

    __slots__ = ("data", "file", "is_canonical", "num_bytes", "start", "tokens")

    def __init__(
        self,
        start: int,
        tokens: Sequence[int],
        is_canonical: bool,
        data: "NDArray[np.uint8] | None",
        *,
        file: str | None = None,
        num_bytes: int = 0,
    ):
        """`tokens` are those at [start, stop). Without data, `num_bytes` is the file's part."""
        self.start = start
        self.tokens = tokens
        self.is_canonical = is_canonical
        self.data = data
        self.file = file  # its name on the shelf
        self.num_bytes = num_bytes if data is None else data.nbytes

    @property
    def stop(self) -> int:
        return self.start + len(self.tokens)


def offloaded_bytes(copies: Iterable[OffloadedCells | None]) -> int:
    """Their total size in host memory; the parts of a split run share one copy."""
    held = {id(copy): copy.num_bytes for copy in copies if copy and copy.data is not None}
    return sum(held.values())


class KeptSpan(NamedTuple):
    """A copy and its place: after the first `cells.start` tokens of those that `parent` ends."""

    salt: str  # of the requests that may use it
    parent: OffloadedCells | None  # None at the beginning of a prompt
    cells: OffloadedCells
    age: int = 0  # since it was last used, to compare with others of the same list


# Takes the data of a copy that was to be read; None if its file is gone or damaged.
Done = Callable[[OffloadedCells, "NDArray[np.uint8] | None"], None]


class Shelf(Protocol):
    """Keeps the copies of one model from one engine to the next, in memory or in files. Used by
    one engine at a time, on its thread; no call waits for a disk."""

    def take(self) -> list[KeptSpan]:
        """What earlier engines left, parents first."""

    def put(self, spans: list[KeptSpan]) -> None:
        """Leaves everything to the next engine, parents first."""

    @property
    def is_open(self) -> bool:
        """Whether `put` is of use: not at a server's end, unless there are files."""

    @property
    def has_files(self) -> bool:
        """Whether it also wants the spans of conversations while the engine runs."""

    @property
    def is_behind(self) -> bool:
        """Whether so much waits to be written that more should come later."""

    def write(self, span: KeptSpan) -> None:
        """Writes the span to a file, soon. Sets `cells.file`, and resets it if that fails."""

    def read(self, copies: list[OffloadedCells], done: Done) -> None:
        """Reads the files of these copies, in order, and calls `done` for each from any thread."""

    def touch(self, copies: list[OffloadedCells]) -> None:
        """Marks the files of these copies as used now; parents come first."""

    def remove(self, copies: list[OffloadedCells]) -> None:
        """Removes the files of these copies."""
