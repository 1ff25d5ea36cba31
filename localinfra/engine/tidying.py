"""When idle cells are offloaded because they slow down every step, and when that would cost more.

Steps read all cells up to the last used one. What leaves makes holes, and beside cells that must
stay in order each hole has all of them copied (`KVCache.relay`), while everyone waits.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

# Steps between two looks at idle cells: a conversation that continues at once finds its cells in
# place, unless many others have ended since.
TIDY_INTERVAL = 8
MANY_IDLE = 512  # cells; 1,700 slowed a step of one row by 5 to 9 %
MANY_BESIDE_ORDERED = 2048  # and at least as many as are held


class Tidying:
    """Engine thread only."""

    def __init__(self, max_stall_s: float):
        """`max_stall_s`: that copying may take, by what it took before."""
        self._max_stall_s = max_stall_s
        self._cell_s = 0.0  # of the last copying
        self._steps_left = TIDY_INTERVAL

    def looks(self) -> bool:
        """Call once per step. Whether it is time to look at idle cells: every so many steps, and
        then in each one until `end`."""
        self._steps_left -= 1
        return self._steps_left <= 0

    def end(self) -> None:
        """No more are too many."""
        self._steps_left = TIDY_INTERVAL

    def are_too_many(self, num_idle: int, num_held: int, *, keeps_order: bool) -> bool:
        """Whether some of the idle cells are to leave; with `keeps_order`, beside some in order."""
        if not keeps_order:
            return num_idle >= MANY_IDLE
        is_stall = (num_idle + num_held) * self._cell_s >= self._max_stall_s
        return num_idle >= max(MANY_BESIDE_ORDERED, num_held) and not is_stall

    @contextmanager
    def copying(self, num_cells: int) -> Iterator[None]:
        """Around what copies so many cells."""
        began_s = time.perf_counter()
        yield
        self._cell_s = (time.perf_counter() - began_s) / max(1, num_cells)
