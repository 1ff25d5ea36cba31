"""Copies of KV cells in host memory.

Reading them back takes microseconds per token where computing them takes milliseconds, so what
leaves the cells is worth keeping while there is room.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

MIN_PARKED = 16  # tokens; fewer are computed again as fast as they are looked up and copied
MAX_PARKED = 512  # tokens of one copy: some milliseconds in which no step runs


class ParkedCells:
    """The cells of positions [start, stop) of some prefix, in the backend's own format."""

    __slots__ = ("data", "start", "stop")

    def __init__(self, start: int, stop: int, data: NDArray[np.uint8]):
        self.start = start
        self.stop = stop
        self.data = data


def parked_bytes(copies: Iterable[ParkedCells | None]) -> int:
    """What these take together; parts of a run that was split share one copy."""
    return sum({id(copy): copy.data.nbytes for copy in copies if copy is not None}.values())
