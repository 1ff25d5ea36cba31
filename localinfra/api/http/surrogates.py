"""Half characters in a JSON body: `\\ud83d` without its other half, as clients write them that cut
texts by UTF-16 units. No UTF-8 has them, so no decoder takes them; this says which and where. Pure.
"""

import json
import re
from typing import Any

MAX_SEARCHED_BYTES = 1 << 20  # of a body, for the path: 10 ms

ESCAPED = re.compile(
    rb"\\u(?:[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u)[dD][c-fC-F][0-9a-fA-F]{2})"
)
LONE = re.compile("[\ud800-\udfff]")
MAX_ESCAPES_BYTES = 18  # from the first of two escapes to where a decoder gives up


def lone_surrogate(body: bytes, end: int) -> tuple[str, str | None] | None:
    """What a decoder that has given up at the byte `end` stumbled over, if it was half a character:
    its place in words, and its path where that is found."""
    for found in ESCAPED.finditer(body, max(0, end - MAX_ESCAPES_BYTES), end):
        before = body[max(0, found.start() - 1000) : found.start()]
        if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:  # else it is a text about escapes
            return f"{found[0].decode()} at byte {found.start()}", _path(body)
    return None


def _path(body: bytes) -> str | None:
    """Of the first text that has one, as errors name places."""
    if len(body) > MAX_SEARCHED_BYTES:
        return None
    try:
        waiting: list[tuple[str, Any]] = [("", json.loads(body))]
    except ValueError:  # there is more amiss
        return None
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, str) and LONE.search(value):
            return path
        if isinstance(value, list):
            waiting += [(f"{path}[{at}]", item) for at, item in enumerate(value)][::-1]
        if isinstance(value, dict):
            if any(map(LONE.search, value)):
                return path or None
            waiting += [(f"{path}.{name}".lstrip("."), value[name]) for name in value][::-1]
    return None
