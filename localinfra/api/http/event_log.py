"""A stream's events as they were sent, for readers that come late or come back.

Event loop only. Knows no event's meaning.
"""

import asyncio
from collections.abc import AsyncGenerator

from localinfra.errors import InvalidRequest

END = b"\n\n"  # of an event; nothing within one has an empty line
AT_ONCE = 64  # events per write to a reader that is behind


class EventLog:
    """Events numbered from 0, of which the oldest may have been dropped."""

    def __init__(self) -> None:
        self._events: list[bytes] = []  # framed
        self._news = asyncio.Event()  # set by the next change, which replaces it
        self.first = 0  # the number of the first one kept
        self.num_bytes = 0
        self.has_ended = False

    def append(self, data: bytes) -> None:
        """Adds one or more whole events."""
        self._events += [event + END for event in data.split(END)[:-1]]
        self.num_bytes += len(data)
        self._tell()

    def end(self) -> None:
        """No more will come."""
        self.has_ended = True
        self._tell()

    def drop(self, num_bytes: int) -> int:
        """Drops the oldest, at least so many bytes of them. Returns how many."""
        count = dropped = 0
        while dropped < num_bytes and count < len(self._events):
            dropped += len(self._events[count])
            count += 1
        del self._events[:count]
        self.first += count
        self.num_bytes -= dropped
        return dropped

    def check(self, start: int) -> None:
        """Raises InvalidRequest if the events from this number on are not all here."""
        if start < self.first:
            raise InvalidRequest(
                f"The events before number {self.first} are no longer kept: ask for those after "
                f"{self.first} or a later one, or for the whole answer once it is there.",
                "starting_after",
            )

    async def follow(self, start: int) -> AsyncGenerator[bytes, None]:
        """The events from this number on, then those to come, until the end. Any number of readers
        may follow, each at its own pace. Raises the error of `check`."""
        while True:
            self.check(start)
            news = self._news
            at = start - self.first
            events = self._events[at : at + AT_ONCE]
            start += len(events)
            if events:
                yield b"".join(events)
            elif self.has_ended:
                return
            else:
                await news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
