"""Long JSON responses in pieces too small to block the event loop."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from localinfra.executor import give_way

encode = msgspec.json.Encoder().encode

SENT_AT_ONCE_BYTES = 1 << 20  # encrypted in 3 ms; an image may have ten times as much


class PiecesResponse(Response):
    """A JSON body sent piece by piece."""

    media_type = "application/json"

    def __init__(self, parts: list[bytes], headers: Mapping[str, str] | None = None):
        self.parts = parts
        self.status_code = 200
        self.background = None
        size = {"content-length": str(sum(map(len, parts)))}
        self.init_headers({**size, **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        num_sent = 0  # since others had their turn
        for part in self.parts:
            for at in range(0, len(part), SENT_AT_ONCE_BYTES):
                if num_sent >= SENT_AT_ONCE_BYTES:
                    await give_way()
                    num_sent = 0
                piece = part[at : at + SENT_AT_ONCE_BYTES]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                num_sent += len(piece)
        await send({"type": "http.response.body", "body": b""})


def fill_arrays(value: object, arrays: Mapping[str, Iterable[bytes]]) -> list[bytes]:
    """The JSON of `value`, with `arrays` (name → content, in pieces) put into its empty lists of
    these names. The names must be in the order of the JSON."""
    parts, rest = [], encode(value)
    for name, pieces in arrays.items():
        head, rest = rest.split(b'"%b":[]' % name.encode(), 1)  # no string has bare quotes
        parts += [b'%b"%b":[' % (head, name.encode()), *pieces, b"]"]
    return [*parts, rest]


def items_of(array: Iterable[bytes | memoryview]) -> list[bytes]:
    """The content of an array, whose JSON is in parts."""
    parts = list(map(bytes, array))
    parts[0] = parts[0].removeprefix(b"[")
    parts[-1] = parts[-1].removesuffix(b"]")
    return parts


def join_items(items: Iterable[bytes]) -> Iterator[bytes]:
    """The content of an array: the items, separated by commas."""
    for index, item in enumerate(items):
        if index:
            yield b","
        yield item


async def encode_each(items: Sequence[msgspec.Struct]) -> list[bytes]:
    """Each item as JSON, yielding to the event loop after each: logprobs can make it megabytes."""
    found = []
    for item in items:
        found.append(encode(item))
        await give_way()
    return found
