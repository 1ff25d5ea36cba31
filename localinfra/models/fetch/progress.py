"""How far a pull is, for people: bytes, rate, time left. Reads the clock, and nothing else."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

WINDOW_S = 10.0  # the rate is that of the last seconds
Stage = Literal["fetching", "waiting", "verifying"]  # waiting: another process fetches the file


@dataclass(frozen=True)
class PullProgress:
    file: str  # the one at work
    done_bytes: int  # of all files of the plan
    total_bytes: int
    rate: float | None  # bytes per second; None: not known yet
    stage: Stage = "fetching"

    @property
    def left_s(self) -> float | None:
        """Seconds left at this rate."""
        return (self.total_bytes - self.done_bytes) / self.rate if self.rate else None


Show = Callable[[PullProgress], None]


class PullMeter:
    """Turns the bytes of the file at work into the progress of all. One thread calls it."""

    def __init__(self, total_bytes: int, show: Show) -> None:
        self._total_bytes = total_bytes
        self._show = show
        self._before_bytes = 0  # in the files before
        self._file = ""
        self._seen: deque[tuple[float, int]] = deque()

    def start(self, file: str) -> None:
        self._file = file
        self._seen.clear()  # what was here already says nothing about the rate

    def end(self, size_bytes: int) -> None:
        """Of the file at work."""
        self._before_bytes += size_bytes

    def update(self, done_bytes: int, stage: Stage = "fetching") -> None:
        """`done_bytes`: of the file at work."""
        now = time.monotonic()
        self._seen.append((now, done_bytes))
        while now - self._seen[0][0] > WINDOW_S:
            self._seen.popleft()
        then, before = self._seen[0]
        is_known = now > then and stage != "verifying"
        rate = max(0, done_bytes - before) / (now - then) if is_known else None
        done = min(self._before_bytes + done_bytes, self._total_bytes)
        self._show(PullProgress(self._file, done, self._total_bytes, rate or None, stage))
