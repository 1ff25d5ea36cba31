"""How long to wait for servers, and how to begin again when they fail."""

import threading
from dataclasses import dataclass, replace

from localinfra.errors import PullFailed, PullStopped

KEPT = "What has been fetched is kept, and the same pull goes on from there."


@dataclass(frozen=True)
class Pace:
    connections: int = 8  # for one file
    part_bytes: int = 32 << 20  # of one range: half a minute at 1 MB/s
    connect_s: float = 15
    read_s: float = 30  # without a byte
    slow_bytes: int = 64 << 10  # a connection that brings less in `read_s` is made anew
    answer_s: float = 60  # for a whole listing or manifest
    attempts: int = 8  # in a row that bring nothing: a minute and a half with these waits
    first_wait_s: float = 1
    longest_wait_s: float = 30
    longest_retry_after_s: float = 600  # what a server may ask for before we say so and end


PACE = Pace()


def brief(pace: Pace) -> Pace:
    """For questions before a transfer, where somebody waits for the answer."""
    return replace(pace, attempts=min(3, pace.attempts))


class Passing(Exception):
    """A fault that may pass: a line cut, a server overloaded. The message is for the user."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Patience:
    """Counts the attempts that brought nothing. Not shared by threads."""

    def __init__(self, pace: Pace, stop: threading.Event, advice: str = "Try again later.") -> None:
        self._pace = pace
        self._stop = stop
        self._advice = advice
        self._failed = 0

    def progressed(self) -> None:
        self._failed = 0

    def wait(self, fault: Passing) -> None:
        """Waits before the next attempt. Raises PullFailed after too many, and PullStopped."""
        self._failed += 1
        asked_s = fault.retry_after_s
        if self._failed >= self._pace.attempts:
            raise PullFailed(f"{fault}, {self._failed} times in a row. {self._advice}")
        if asked_s is not None and asked_s > self._pace.longest_retry_after_s:
            raise PullFailed(f"{fault}, and asks to wait {asked_s:.0f} s. {self._advice}")
        wait_s = self._pace.first_wait_s * 2.0 ** (self._failed - 1)
        if self._stop.wait(max(min(wait_s, self._pace.longest_wait_s), asked_s or 0)):
            raise PullStopped("Stopped.")
