"""The log's format: one line per record, outside text escaped, floods throttled.

Knows neither HTTP nor models. Only the serving process calls `configure`; other code just logs.
"""

import faulthandler
import logging
import tempfile
import time
from typing import NamedTuple

MAX_SHOWN = 200  # characters of a value from outside
MAX_LINE = 4000
# Limits for records of one kind (logger, level, wording and `kind`): enough to see what is going
# on, and at some 300 bytes a line at most 260 MB a day from a client that tries to fill the disk.
BURST_LINES = 100
LINES_PER_S = 10.0
TRACEBACK_LINES = 10  # what a record with a traceback counts as
MAX_KINDS = 256


def shown(value: str, limit: int = MAX_SHOWN) -> str:
    """An outside value for a log line: truncated, and control characters escaped."""
    return printable(value[:limit]) + ("..." if len(value) > limit else "")


def printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def configure(level: str) -> None:
    """Logs to stderr, at `level` and above."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine())
    handler.addFilter(Throttle())
    logging.basicConfig(level=level.upper(), handlers=[handler])


class OneLine(logging.Formatter):
    """Keeps text from a client from starting a line of its own or colouring the terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = shown(record.message, MAX_LINE)
        return super().formatMessage(record)


def kind(of: object) -> dict[str, object]:
    """For `extra`: throttles a record apart from others of the same wording."""
    return {"kind": of}


class Bucket(NamedTuple):
    lines: float  # that could be written at `at_s`
    at_s: float  # time.monotonic()
    num_left_out: int


class Throttle(logging.Filter):
    """Passes records of one kind at `lines_per_s` after a burst; the next that passes says how many
    were dropped. Debug records always pass: someone asked for them."""

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
            del self.buckets[next(iter(self.buckets))]  # the least recently used
        self.buckets[key] = Bucket(
            lines - cost if passes else lines, now, 0 if passes else num_left_out + 1
        )
        return passes


def stacks() -> str:
    """The stack of every thread of this process."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()
