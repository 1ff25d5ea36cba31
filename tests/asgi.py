"""One raw ASGI call, without a client library's help: exact headers in, exact messages out."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from starlette.types import ASGIApp, Message, Scope

Header = tuple[str, str]


class Reply(NamedTuple):
    status: int
    headers: list[Header]
    body: bytes
    scope: Scope

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, f"{name} is sent twice: {values}"
        return values[0] if values else None

    @property
    def error(self) -> Any:
        """What tells of an error in OpenAI's shape."""
        return msgspec.json.decode(self.body)["error"]


def scope_of(
    method: str = "GET",
    path: str = "/v1/models",
    headers: Iterable[Header] = (("host", "localhost"),),
    server: tuple[str, int] | None = ("127.0.0.1", 8000),
) -> Scope:
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "http_version": "1.1",
        "scheme": "http",
        "server": server,
        "client": ("127.0.0.1", 50000),
        "state": {},
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }


def call(app: ASGIApp, scope: Scope, chunks: Sequence[bytes] = (b"",)) -> Reply:
    """Sends the body in `chunks`; the client then stays until the answer is complete."""
    return asyncio.run(answer(app, scope, chunks))


async def answer(app: ASGIApp, scope: Scope, chunks: Sequence[bytes] = (b"",)) -> Reply:
    """The same on an event loop that runs."""
    incoming: list[Message] = [
        {"type": "http.request", "body": chunk, "more_body": at < len(chunks) - 1}
        for at, chunk in enumerate(chunks)
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        if not incoming:
            await asyncio.Event().wait()
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    body = b"".join(message["body"] for message in sent[1:])
    headers = [(name.decode(), value.decode("latin-1")) for name, value in sent[0]["headers"]]
    return Reply(sent[0]["status"], headers, body, scope)
