"""The log's form: what a client sends stays within its line, and no flood fills the disk."""

import contextvars
import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from localinfra.logs import (
    MAX_KINDS,
    MAX_LINE,
    MAX_SHOWN,
    MAX_TRACEBACK,
    TRACEBACK_LINES,
    JsonLine,
    OneLine,
    Throttle,
    about,
    configure,
    kind,
    request_id,
    shown,
)

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


def failed(log: logging.Logger, message: str) -> None:
    try:
        raise ValueError(message)
    except ValueError:
        log.exception("failed", extra=about("id-7"))


def test_the_lines_of_a_traceback_are_indented_so_that_none_can_be_forged(
    log: logging.Logger, out: io.StringIO
) -> None:
    failed(log, HOSTILE)
    first, *others = out.getvalue().splitlines()
    assert first.endswith("failed id=id-7") and "Traceback" in others[0] and len(others) > 3
    assert all(line.startswith("    ") and line.isprintable() for line in others)


@pytest.mark.parametrize("form", [OneLine, JsonLine])
def test_a_traceback_is_bounded(
    log: logging.Logger, out: io.StringIO, form: type[logging.Formatter]
) -> None:
    log.handlers[0].setFormatter(form())
    failed(log, "x" * 100_000 + "\n" * 100_000)
    assert len(out.getvalue()) < (MAX_TRACEBACK + 1) * (MAX_LINE + 10)


def test_a_value_beside_the_message_ends_where_it_seems_to(
    log: logging.Logger, out: io.StringIO
) -> None:
    log.info("hello", extra=about("id-7", model="org/name", user='a" id=b', none=None, key=""))
    log.info("hello", extra=about("", user=HOSTILE * 100, ms=12))
    first, second = out.getvalue().splitlines()
    assert first.endswith(' hello id=id-7 model=org/name user="a\\" id=b"')
    assert second.isprintable() and second.endswith(" ms=12") and len(second) < 20 * MAX_SHOWN


def test_a_json_line_holds_what_the_text_does_and_nothing_but_visible_ascii(
    log: logging.Logger, out: io.StringIO
) -> None:
    log.handlers[0].setFormatter(JsonLine())
    extra = about("id-7", "id-8", said={"status": 404}, user=HOSTILE, ms=1.5, key=None)
    log.warning("for %s", HOSTILE, extra=extra)
    failed(log, HOSTILE)
    first, second = out.getvalue().splitlines()
    assert re.fullmatch(r"[ -~]+", first) and re.fullmatch(r"[ -~]+", second)
    found = json.loads(first)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", found.pop("time"))
    assert found == {
        "level": "warning",
        "logger": "test",
        "message": f"for {shown(HOSTILE)}",
        "request_id": "id-7,id-8",
        "status": 404,
        "user": shown(HOSTILE),
        "ms": 1.5,
    }
    assert json.loads(second)["traceback"][0].startswith("Traceback")


@pytest.mark.parametrize(("name", "seen"), [("uvicorn.error", True), ("localinfra.pool", False)])
def test_only_other_libraries_lines_get_the_id_of_the_task_at_hand(
    log: logging.Logger, out: io.StringIO, name: str, seen: bool
) -> None:
    def act() -> None:
        request_id.set("id-7")
        log.name = name
        log.warning("odd")

    contextvars.copy_context().run(act)
    assert ("id=id-7" in out.getvalue()) == seen


def test_level_and_format_can_change_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.RootLogger(logging.WARNING)
    monkeypatch.setattr(logging, "getLogger", lambda: root)
    configure("info", "text")
    [handler] = root.handlers
    configure("debug", "json")
    assert root.handlers == [handler] and root.level == logging.DEBUG
    assert isinstance(handler.formatter, JsonLine)


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
