"""Bodies as bytes: JSON in other encodings, and forms. Pure."""

import base64
import contextlib
import json
from collections.abc import Sequence
from random import Random
from typing import Any

from fuzzing.values import Json, written
from fuzzing.wire import BOUNDARY


def encoded(text: str, draw: Random) -> bytes:
    """JSON in another encoding, or with its bytes damaged."""
    kind = draw.randrange(8)
    if kind < 2:
        return text.encode(draw.choice(("utf-16", "utf-32-le", "utf-8-sig", "utf-7", "utf-16-be")))
    data = bytearray(text.encode())
    if kind < 4:
        return bytes(data[: draw.randrange(len(data) + 1)])
    for _ in range(draw.choice((1, 1, 2, 6))):
        at = draw.randrange(len(data) + 1)
        piece = draw.choice(
            (
                b"\xff",
                b"\xc3",
                b"\xed\xa0\x80",
                b"\0",
                b"\\",
                b'"',
                b"{",
                b"]",
                b",",
                b"\\ud800",
                b"\xf0\x9f",
                b"e",
                b"-",
                b" ",
            )
        )
        data[at : at + draw.randrange(3)] = piece
    return bytes(data)


def form(body: dict[str, Json], files: Sequence[str], draw: Random, oddity: float) -> bytes:
    """A body's fields as parts."""
    data = b""
    for name, value in body.items():
        for item in value if isinstance(value, list) else [value]:
            data += part(name, item, name in files, draw, oddity)
    end = b"--%b--\r\n" % BOUNDARY
    if draw.random() < oddity:
        end = draw.choice((b"", b"--", end * 2, b"--%b\r\n" % BOUNDARY, end + b"after"))
    data += end
    return data[: draw.randrange(len(data))] if draw.random() < oddity else data


def part(name: str, value: Any, is_file: bool, draw: Random, oddity: float) -> bytes:
    text = value if isinstance(value, str) else written(value)
    payload = text.encode(errors="replace")
    if is_file and text.startswith("data:") and "," in text:
        with contextlib.suppress(ValueError):
            payload = base64.b64decode(text.partition(",")[2])
    if draw.random() < oddity:
        at = draw.randrange(len(payload) + 1)
        payload = (
            payload[:at]
            + draw.choice((b"\xff\xfe", b"\r\n--", b"\0", b"\r\n--%b" % BOUNDARY))
            + payload[at:]
        )
    shown = (
        json.dumps(name).encode()
        if draw.random() >= oddity
        else draw.choice((b'""', b'"\xff"', b"x", b'"a'))
    )
    lines = b"Content-Disposition: form-data; name=%b" % shown
    if is_file:
        lines += b'; filename="%b"' % draw.choice((b"it.png", b"it.png", b"", b"../x", b"\xff"))
        lines += draw.choice((b"", b"\r\nContent-Type: image/png", b"\r\nContent-Type: \xff"))
    if draw.random() < oddity:
        lines += draw.choice(
            (b"\r\nContent-Transfer-Encoding: base64", b"\r\nx" * 40, b"\r\n: x", b"\0")
        )
    return b"--%b\r\n%b\r\n\r\n%b\r\n" % (BOUNDARY, lines, payload)
