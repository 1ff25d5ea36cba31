"""The log's formats: one line per record, outside text escaped, floods throttled.

    logger.warning("%s can't be loaded: %s", name, error)
    logger.error("an image failed", extra=about(request_id))      # ... an image failed id=3f2a

Knows neither HTTP nor models. Only the serving process calls `configure`; other code just logs.
"""

import faulthandler
import json
import logging
import time
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, NamedTuple

from localinfra.scratch import memory_file

LogFormat = Literal["text", "json"]
Caught = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

MAX_SHOWN = 200  # characters of a value from outside
MAX_LINE = 4000
MAX_TRACEBACK = 200  # lines
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


def configure(level: str, form: LogFormat) -> None:
    """Logs to stderr, at `level` and above. Call it again to change either."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    formatter = OneLine() if form == "text" else JsonLine()
    ours = [one for one in root.handlers if isinstance(one.formatter, OneLine | JsonLine)]
    for handler in ours:
        handler.setFormatter(formatter)
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(formatter)
        handler.addFilter(Throttle())
        root.addHandler(handler)


# The id of the request that a task answers, for what other libraries log, and for the objects that
# stand for the request on other threads. Our own lines about requests name it: what one request
# has started, such as the loading of a model, may outlast it.
request_id: ContextVar[str] = ContextVar("request_id", default="")


def about(*requests: str, said: Mapping[str, object] = {}, **fields: object) -> dict[str, object]:
    """For `extra`: the ids of the requests that a record is about, and values beside its message.
    `said` are values in the message, for programs. All may be a client's: they are truncated and
    escaped when they are written."""
    return {"request_id": ",".join(requests), "said": said, "fields": fields}


def id_of(record: logging.LogRecord) -> str:
    """The id of the request that a record is about."""
    inherited = "" if record.name.startswith("localinfra") else request_id.get()
    return getattr(record, "request_id", inherited)


def values(record: logging.LogRecord, which: str) -> dict[str, object]:
    """The `fields` that `about` has given to a record, or what is `said` in it."""
    given: Mapping[str, object] = getattr(record, which, {})
    return {name: value for name, value in given.items() if value not in (None, "")}


class OneLine(logging.Formatter):
    """For people. Keeps text from a client from starting a line of its own or colouring the
    terminal; the lines of tracebacks are indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        id = id_of(record)
        pairs = ({"id": id} if id else {}) | values(record, "fields")
        words = (f" {name}={word(value)}" for name, value in pairs.items())
        record.message = shown(record.message.rstrip(), MAX_LINE) + "".join(words)
        return super().formatMessage(record)

    def formatException(self, ei: Caught) -> str:
        return "\n".join(f"    {line}" for line in last_lines(super().formatException(ei)))


def word(value: object) -> str:
    """A value that ends where it seems to."""
    text = shown(str(value))
    is_plain = text and not any(sign in text for sign in ' "=')
    return text if is_plain else '"{}"'.format(text.replace('"', r"\""))


def last_lines(traceback: str) -> list[str]:
    return [shown(line, MAX_LINE) for line in traceback.splitlines()[-MAX_TRACEBACK:]]


class JsonLine(logging.Formatter):
    """For programs: one JSON object per line, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        at, id = datetime.fromtimestamp(record.created, UTC), id_of(record)
        line: dict[str, object] = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": shown(record.getMessage().rstrip(), MAX_LINE),
        }
        if id:
            line["request_id"] = shown(id)
        for name, value in (values(record, "said") | values(record, "fields")).items():
            line[name] = value if isinstance(value, int | float) else shown(str(value))
        if record.exc_info:
            line["traceback"] = last_lines(self.formatException(record.exc_info))
        return json.dumps(line)  # which escapes all but visible ASCII


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
    with memory_file() as file:
        faulthandler.dump_traceback(file.fileno(), all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")
