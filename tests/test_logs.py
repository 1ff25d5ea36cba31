"""The log's form: what a client sends stays within its line, and no flood fills the disk."""

import io
import logging
from collections.abc import Iterator

import pytest

from localinfra.logs import MAX_KINDS, MAX_LINE, TRACEBACK_LINES, OneLine, Throttle, kind, shown

HOSTILE = "a\nERROR forged\r\x1b[2J\x00\u202e\ud800é"


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(out: io.StringIO) -> Iterator[logging.Logger]:
    handler = logging.StreamHandler(out)
    handler.setFormatter(OneLine())
    handler.addFilter(Throttle(burst=3 * TRACEBACK_LINES, lines_per_s=0.01))
    logger = logging.Logger("test", logging.DEBUG)
    logger.addHandler(handler)
    yield logger
    handler.close()


def test_an_outside_value_is_truncated_and_escaped() -> None:
    assert shown("plain é text") == "plain é text"
    assert shown(HOSTILE) == "a\\nERROR forged\\r\\x1b[2J\\x00\\u202e\\ud800é"
    assert shown("x" * 201) == "x" * 200 + "..."
    assert len(shown("\x00" * 2_600_000)) < 1000


@pytest.mark.parametrize("text", [HOSTILE, "x" * 100_000, "\n" * 10_000])
def test_a_record_is_one_line(log: logging.Logger, out: io.StringIO, text: str) -> None:
    log.info("for %s", text)
    [line] = out.getvalue().splitlines()
    assert line.isprintable() and len(line) <= 10 * MAX_LINE


def test_a_traceback_keeps_its_lines(log: logging.Logger, out: io.StringIO) -> None:
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        log.exception("failed")
    assert "Traceback" in out.getvalue() and len(out.getvalue().splitlines()) > 2


def test_a_flood_of_one_kind_of_record_is_throttled_and_counted(
    log: logging.Logger, out: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    for at in range(1000):
        log.warning("refused %d", at)
    log.warning("something else")
    log.error("refused %d", 1)
    log.warning("refused %d", 2, extra=kind(503))
    lines = [line.partition("test: ")[2] for line in out.getvalue().splitlines()]
    assert lines == [
        *[f"refused {at}" for at in range(30)], "something else", "refused 1", "refused 2",
    ]  # fmt: skip
    now = 2000.0
    log.warning("refused %d", 1000)
    assert out.getvalue().endswith("refused 1000 (and 970 more like this)\n")


def test_tracebacks_are_throttled_sooner(log: logging.Logger, out: io.StringIO) -> None:
    for _ in range(20):
        log.error("failed", exc_info=ZeroDivisionError())
    assert out.getvalue().count("failed") == 3


def test_debug_records_are_never_throttled(log: logging.Logger, out: io.StringIO) -> None:
    for _ in range(100):
        log.debug("step")
    assert len(out.getvalue().splitlines()) == 100


def test_endless_kinds_of_records_take_bounded_memory(log: logging.Logger) -> None:
    throttle = Throttle()
    for at in range(3 * MAX_KINDS):
        throttle.filter(logging.makeLogRecord({"msg": f"kind {at}", "levelno": logging.INFO}))
    assert len(throttle.buckets) == MAX_KINDS
