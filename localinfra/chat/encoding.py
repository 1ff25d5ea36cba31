"""Values → JSON in parts, none of which holds the interpreter for long: one string of 16 MB of line
ends takes 50 ms. Pure."""

import re
import secrets
from typing import Any, TypeAlias

import msgspec

from localinfra.long_text import join_bytes
from localinfra.steps import Steps, done

JsonPart: TypeAlias = bytes | memoryview

SLICE_CHARS = 1 << 17  # of a long string, encoded in 1 ms
VALUES_PER_STEP = 1 << 15  # that are looked at
HOLDING = (str, list, dict)  # values that may be long

encode = msgspec.json.Encoder().encode


def json_parts(value: object) -> Steps[list[JsonPart]]:
    """The JSON of a value, as `msgspec.json.encode` makes it. Work may be interrupted where this
    yields. Raises its errors."""
    mark = secrets.token_hex(16)  # which no client can know
    taken: list[str | memoryview] = []  # long strings, and what is JSON already

    def held(raw: object) -> str:
        if not isinstance(raw, msgspec.Raw):
            raise TypeError(f"{type(raw)} can't be encoded")
        taken.append(memoryview(raw))
        return f"{mark}{len(taken) - 1:08x}"

    root = [msgspec.to_builtins(value, str_keys=True, enc_hook=held)]
    yield
    yield from _take_out(root, mark, taken)
    yield
    encoded = encode(root)[1:-1]
    if not taken:
        return [encoded]
    parts: list[JsonPart] = []
    for at, part in enumerate(re.split(rb'"%b([0-9a-f]{8})"' % mark.encode(), encoded)):
        one = taken[int(part, 16)] if at % 2 else part
        if not isinstance(one, str):
            parts.append(one)
            continue
        parts.append(b'"')
        for start in range(0, len(one), SLICE_CHARS):
            parts.append(encode(one[start : start + SLICE_CHARS])[1:-1])
            yield
        parts.append(b'"')
    return parts


def _take_out(root: list[Any], mark: str, taken: list[str | memoryview]) -> Steps[None]:
    """Puts names in the place of long strings."""

    def short(text: str) -> str:
        if len(text) <= SLICE_CHARS:
            return text
        taken.append(text)
        return f"{mark}{len(taken) - 1:08x}"

    left: list[Any] = [root]
    num_seen = 0
    while left:
        node = left.pop()
        if isinstance(node, dict) and max(map(len, node), default=0) > SLICE_CHARS:
            items = [(short(name), value) for name, value in node.items()]
            node.clear()
            node.update(items)
        places: Any = node.items() if isinstance(node, dict) else enumerate(node)
        for place, inner in places:
            num_seen += 1
            if num_seen % VALUES_PER_STEP == 0:
                yield
            if isinstance(inner, str):
                if len(inner) > SLICE_CHARS:
                    node[place] = short(inner)
                continue
            if isinstance(inner, tuple):
                inner = node[place] = list(inner)
            if isinstance(inner, (list, dict)) and inner:
                left.append(inner)


def json_of(value: object) -> bytes:
    """The JSON of plain values, for threads, which are interrupted between calls."""
    return join_bytes(all_parts(value)) if _has_long(value) else encode(value)


def _has_long(value: object) -> bool:
    """Whether a long string is found among the first values."""
    left: list[Any] = [[value]]
    num_seen = 0
    while left:
        node = left.pop()
        num_seen += 1 if isinstance(node, str) else len(node)
        if num_seen > VALUES_PER_STEP:
            return False
        if isinstance(node, dict):
            if max(map(len, node), default=0) > SLICE_CHARS:
                return True
            left += [one for one in node.values() if type(one) in HOLDING]
        elif isinstance(node, list):
            left += [one for one in node if type(one) in HOLDING]
        elif isinstance(node, str) and len(node) > SLICE_CHARS:
            return True
    return False


def all_parts(value: object) -> list[JsonPart]:
    """`json_parts`, for threads."""
    return done(json_parts(value))
