"""Stop strings matched on streamed text, holding back a possible beginning of one."""

from collections.abc import Iterable


class Stops:
    """A request's stop strings, prepared once for all its choices."""

    def __init__(self, strings: Iterable[str]):
        self.strings = tuple(string for string in strings if string)
        self.beginnings = {
            string[:size] for string in self.strings for size in range(1, len(string))
        }
        self.longest = max((len(beginning) for beginning in self.beginnings), default=0)


class StopMatcher:
    """Finds the stop string that is completed first, wherever chunks are cut.

    Of several that end at the same character the longest wins, so that no part of it is sent.
    """

    def __init__(self, stops: Stops):
        self._stops = stops
        self._held = ""

    @property
    def num_held(self) -> int:
        """Characters that may yet become a stop string."""
        return len(self._held)

    def push(self, text: str) -> tuple[str, str | None]:
        """Returns the text now safe to send, and the completed stop string, if any."""
        if not self._stops.strings:
            return text, None
        held = self._held + text
        hits = [
            (at + len(stop), at, stop)
            for stop in self._stops.strings
            if (at := held.find(stop)) >= 0
        ]
        if hits:
            self._held = ""
            _, at, stop = min(hits)
            return held[:at], stop
        safe = len(held) - self._open_match(held)
        ready, self._held = held[:safe], held[safe:]
        return ready, None

    def flush(self) -> str:
        """Returns the text held back, at the end of the text."""
        held, self._held = self._held, ""
        return held

    def _open_match(self, text: str) -> int:
        """The length of the longest suffix of `text` that begins a stop string."""
        for size in range(min(self._stops.longest, len(text)), 0, -1):
            if text[-size:] in self._stops.beginnings:
                return size
        return 0
