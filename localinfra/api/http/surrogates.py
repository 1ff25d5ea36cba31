"""Finds lone surrogates in a JSON body: `\\ud83d` without its other half, sent by clients that cut
text by UTF-16 units. UTF-8 can't encode them, so decoders refuse them without saying where. Pure.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

MAX_SEARCHED_BYTES = 1 << 20  # of a body, to find the path: 10 ms

ESCAPED = re.compile(
    rb"\\u(?:[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u)[dD][c-fC-F][0-9a-fA-F]{2})"
)
LONE = re.compile("[\ud800-\udfff]")
MAX_NAME_CHARS = 100  # of a path
MAX_ESCAPES_BYTES = 18  # from the first of two escapes to where the decoder gives up


def lone_surrogate(body: bytes | bytearray, end: int) -> tuple[str, str | None] | None:
    """The lone surrogate, if any, that made the decoder give up at byte `end`: a description with
    its position, and the path of its string if that is found."""
    for found in ESCAPED.finditer(body, max(0, end - MAX_ESCAPES_BYTES), end):
        before = body[max(0, found.start() - 1000) : found.start()]
        if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:  # else its backslash is escaped
            return f"{found[0].decode()} at byte {found.start()}", _path(body)
    return None


def _path(body: bytes | bytearray) -> str | None:
    """The path of the first string with a lone surrogate, as in errors."""
    if len(body) > MAX_SEARCHED_BYTES:
        return None
    try:
        way = _way(json.loads(body))
    except (ValueError, RecursionError):  # the body has other mistakes too
        return None
    return way.removeprefix(".") if way else None


def _way(value: Any) -> str | None:
    """The path relative to `value`, built on the way back: paths of all places could take
    gigabytes."""
    if isinstance(value, str):
        return "" if LONE.search(value) else None
    if isinstance(value, dict) and any(map(LONE.search, value)):
        return ""
    inside: Iterator[tuple[str, Any]] = iter(())
    if isinstance(value, list):
        inside = ((f"[{at}]", item) for at, item in enumerate(value))
    elif isinstance(value, dict):
        inside = ((f".{name[:MAX_NAME_CHARS]}", item) for name, item in value.items())
    for step, inner in inside:
        if (way := _way(inner)) is not None:
            return step + way
    return None
