"""The log's form: one line a record, nothing from outside unescaped, and no flood.

Knows no HTTP and no model. `configure` is for the process that serves; libraries only log.
"""

import logging
import time
from typing import NamedTuple

MAX_SHOWN = 200  # characters of a value from outside
MAX_LINE = 4000
# Of records of one kind (logger, level, wording and what the record says of itself): enough to see
# what goes on, and at some 300 bytes a line no more than 260 MB a day for who would fill the disk.
BURST_LINES = 100
LINES_PER_S = 10.0
TRACEBACK_LINES = 10  # as so many counts a record that has one
MAX_KINDS = 256


def shown(value: str, limit: int = MAX_SHOWN) -> str:
    """A value from outside on one line of the log: cut, and control characters escaped."""
    return printable(value[:limit]) + ("..." if len(value) > limit else "")


def printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def configure(level: str) -> None:
    """Writes the log to stderr from `level` on."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine())
    handler.addFilter(Throttle())
    logging.basicConfig(level=level.upper(), handlers=[handler])


class OneLine(logging.Formatter):
    """What a client sent can't begin a line of its own, nor colour the terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = shown(record.message, MAX_LINE)
        return super().formatMessage(record)


def kind(of: object) -> dict[str, object]:
    """For `extra`: what sets a record apart from others of its wording."""
    return {"kind": of}


class Bucket(NamedTuple):
    lines: float  # that may be written now
    at_s: float  # when that was so
    num_left_out: int


class Throttle(logging.Filter):
    """Lets records of one kind through at `lines_per_s` after a burst. The next that passes says
    how many were left out. Debug records pass: who asks for them reads along."""

    def __init__(self, burst: float = BURST_LINES, lines_per_s: float = LINES_PER_S) -> None:
        super().__init__()
        self.burst = burst
        self.lines_per_s = lines_per_s
        self.buckets: dict[tuple[str, int, str, object], Bucket] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno <= logging.DEBUG:
            return True
        wording = str(record.msg)[:MAX_SHOWN]
        key = (record.name, record.levelno, wording, getattr(record, "kind", None))
        cost = TRACEBACK_LINES if record.exc_info else 1
        now = time.monotonic()
        lines, at_s, num_left_out = self.buckets.pop(key, Bucket(self.burst, now, 0))
        lines = min(self.burst, lines + (now - at_s) * self.lines_per_s)
        passes = lines >= cost
        if passes and num_left_out:
            record.msg = f"{record.getMessage()} (and {num_left_out} more like this)"
            record.args = ()
        if len(self.buckets) >= MAX_KINDS:
            del self.buckets[next(iter(self.buckets))]  # the one not met for longest
        self.buckets[key] = Bucket(
            lines - cost if passes else lines, now, 0 if passes else num_left_out + 1
        )
        return passes
