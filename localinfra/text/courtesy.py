"""How an encoder and the engine beside it take turns: prompts whose pictures are encoded are read
before the next picture is.

Both keep all cores busy. While they went on side by side, four pictures at once were answered after
3.6 s by the median and 5.5 s at most, instead of 2.9 and 4.7 (docs/benchmarks.md).
"""

import enum
import time
from collections.abc import Callable

HANDOVER = 0.03  # of a part's time: after it, the request is on its way to the engine
POLL_S = 0.002


class Company(enum.Enum):
    """What the engine does meanwhile."""

    NONE = enum.auto()
    READING = enum.auto()  # prompts, and nobody's answer waits for it
    ANSWERING = enum.auto()


class Courtesy:
    """The encoder's thread only. A part is a picture, a tile of one, or a piece of a sound."""

    def __init__(
        self,
        company: Callable[[], Company],
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._company = company
        self._now, self._sleep = now, sleep
        self._part_s = 0.0  # that the last one took
        self._began_s: float | None = None  # the one that is being encoded
        self._ended_s = 0.0  # the last picture

    @property
    def has_company(self) -> bool:
        """Whether some cores should be left to the engine."""
        return self._company() is not Company.NONE

    def give_way(self, check: Callable[[], None]) -> None:
        """Before each part: lets the engine read the prompts that it has, for as long as the last
        part took. Answers don't end soon, and go on beside it. `check` may raise."""
        check()
        self._end_part()
        now = self._now()
        limit_s, handed_over_s = now + self._part_s, self._ended_s + HANDOVER * self._part_s
        while now < limit_s:
            company = self._company()
            if company is Company.ANSWERING or (company is Company.NONE and now >= handed_over_s):
                break
            check()
            self._sleep(POLL_S)
            now = self._now()
        self._began_s = self._now()

    def ended(self) -> None:
        """After the last part, even of what failed."""
        self._end_part()
        self._ended_s = self._now()

    def _end_part(self) -> None:
        if self._began_s is not None:
            self._part_s = self._now() - self._began_s
            self._began_s = None
