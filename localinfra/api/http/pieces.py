"""Long JSON answers in pieces, of which none keeps the event loop waiting."""

from collections.abc import Mapping, Sequence

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from localinfra.executor import give_way

encode = msgspec.json.Encoder().encode


class PiecesResponse(Response):
    """A JSON body that is sent piece by piece."""

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
        for part in self.parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def with_list(
    value: msgspec.Struct, name: str, items: Sequence[msgspec.Struct]
) -> list[bytes]:
    """The JSON of `value`, whose empty list of this name is filled with the items: one by one,
    for with logprobs each may be megabytes."""
    head, tail = encode(value).split(b'"%b":[]' % name.encode(), 1)
    parts = [b'%b"%b":[' % (head, name.encode())]
    for index, item in enumerate(items):
        parts += [b"," if index else b"", encode(item)]
        await give_way()
    return [*parts, b"]" + tail]
