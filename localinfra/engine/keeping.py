"""Lets prefixes outlive the engine: from the cache to a shelf, and back when a prompt needs them.

Decides when copies are made, one at a time between steps. `kvcache.py` makes them; the shelf's
threads do what takes long.
"""

import logging
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from localinfra.engine.backend import Backend
from localinfra.engine.kvcache import KVCache
from localinfra.engine.offloaded import KeptSpan, OffloadedCells, Shelf
from localinfra.engine.radix import Match, Prefix

logger = logging.getLogger(__name__)

# Seconds. A conversation that goes on at once is written once it rests; what came meanwhile is lost
# with a process that is killed.
REST_S = 3.0
BEHIND_S = 0.05  # between two looks at a shelf that is behind
READ_LIMIT_S = 10.0  # without a piece that arrives; then the prompt is computed: the disk hangs
MOST_RESTING = 1024  # conversations that wait; of more, the first ones are not written
WORTH_WRITING = 128  # tokens; shorter conversations are read again as fast


class Keeping:
    """Engine thread only. Without a shelf it does nothing."""

    def __init__(
        self,
        cache: KVCache,
        backend: Backend,
        shelf: Shelf | None,
        send: Callable[[Callable[[], None]], None],
    ):
        """`send` runs a function on the engine's thread."""
        self._cache = cache
        self._backend = backend
        self._shelf = shelf if cache.copies.max_bytes else None
        self._send = send
        self._reading: set[OffloadedCells] = set()
        self._late: set[OffloadedCells] = set()  # for which nobody waits any more
        self._give_up_at_s: float | None = None
        self.num_arrived = 0  # copies, read or given up
        self._finished: deque[Prefix] = deque()  # since the last look
        self._resting: deque[tuple[float, Prefix]] = deque()  # with the time to write each
        self._num_written = 0  # tokens, of the first of these
        self._last_state = 0  # the last position of it whose state was written
        if self._shelf:
            self._shelf.remove(cache.take_in(self._shelf.take()))

    @property
    def is_reading(self) -> bool:
        return bool(self._reading)

    def fetch(self, match: Match) -> bool:
        """Starts reading the match's copies that are in files only, as far as host memory has room
        for all of the match. Returns whether some are being read."""
        if not match.unread:
            return False
        wanted: list[OffloadedCells] = []
        num_bytes = 0
        for copy in match.copies:
            num_bytes += copy.num_bytes
            if num_bytes > self._cache.copies.max_bytes:
                break
            if copy.data is None and copy not in self._late:
                wanted.append(copy)
        new = [copy for copy in wanted if copy not in self._reading]
        if new and self._shelf:
            self._reading.update(new)
            self._shelf.read(new, lambda copy, data: self._send(lambda: self._arrived(copy, data)))
        return not self._reading.isdisjoint(wanted)

    def _arrived(self, copy: OffloadedCells, data: NDArray[np.uint8] | None) -> None:
        self._reading.discard(copy)
        self._late.discard(copy)
        self._give_up_at_s = None
        self.num_arrived += 1
        if data is not None and self._backend.accepts(data, copy.start, copy.stop):
            self._cache.copies.fill(copy, data)
            self._cache.copies.fit()
            return
        self._cache.copies.lose(copy)
        if self._shelf:
            self._shelf.remove([copy])

    def finished(self, prefix: Prefix) -> None:
        """A sequence left these tokens in the cache."""
        if self._shelf and self._shelf.has_files and len(prefix.tokens) >= WORTH_WRITING:
            self._finished.append(prefix)

    def step(self, now_s: float) -> float | None:
        """Hands the shelf at most one piece of a prefix that rests. Returns the seconds to the next
        call, None if there is nothing to do until a sequence comes or finishes."""
        if not (self._finished or self._resting or self._reading):
            return None
        waits_s = self._write_next(now_s), self._limit_reads(now_s)
        return min((wait_s for wait_s in waits_s if wait_s is not None), default=None)

    def _limit_reads(self, now_s: float) -> float | None:
        if not self._reading:
            return None
        if self._give_up_at_s is None:
            self._give_up_at_s = now_s + READ_LIMIT_S
        if now_s < self._give_up_at_s:
            return self._give_up_at_s - now_s
        logger.warning("disk_cache: no answer of the disk for %g s", READ_LIMIT_S)
        self._late |= self._reading
        self._reading.clear()
        self._give_up_at_s = None
        self.num_arrived += 1
        self._send(lambda: None)  # wakes the engine
        return None

    def _write_next(self, now_s: float) -> float | None:
        while self._finished:
            self._resting.append((now_s + REST_S, self._finished.popleft()))
        while len(self._resting) > MOST_RESTING:
            self._next_resting()
        while self._resting:
            due_s, prefix = self._resting[0]
            assert self._shelf
            if due_s > now_s:
                return due_s - now_s
            if self._shelf.is_behind:
                return BEHIND_S
            if span := self._cache.copy_next(prefix, self._num_written):
                self._num_written = span.cells.stop
                self._write(span)
                self._cache.copies.fit()
                return 0.0
            if span := self._cache.states.next_unwritten(prefix, self._last_state):
                self._last_state = span.cells.stop
                if not span.cells.file:
                    self._write(span)
                return 0.0
            self._shelf.touch(self._cache.copies.files_of(prefix))
            self._next_resting()
        return None

    def _next_resting(self) -> None:
        self._resting.popleft()
        self._num_written = self._last_state = 0

    def _write(self, span: KeptSpan) -> None:
        """Unless it is of an architecture whose states would not be accepted again."""
        copy = span.cells
        assert self._shelf and copy.data is not None
        if self._backend.accepts(copy.data, copy.start, copy.stop):
            self._shelf.write(span)

    def leave(self) -> None:
        """Leaves all prefixes to the next engine. Nothing may run."""
        if self._shelf and self._shelf.is_open:
            spans = self._cache.take_out()
            if self._shelf.has_files:
                parents = {span.parent for span in spans}
                for span in spans:
                    is_worth = span.cells in parents or span.cells.stop >= WORTH_WRITING
                    if is_worth and span.cells.data is not None and not span.cells.file:
                        self._write(span)
            self._shelf.put(spans)
            self._cache.copies.most_bytes = 0  # they are the shelf's now
