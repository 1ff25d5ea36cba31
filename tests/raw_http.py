"""Raw bytes for a server, and an app of a few lines that answers them."""

import asyncio
import contextlib
import json

from serving import RawReply
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from localinfra.api.http.sse import until_disconnect
from localinfra.config.settings import ServerSettings

GET = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
# Short enough to wait for, long enough for a busy machine between two packets.
SHORT = ServerSettings(head_timeout_s=1.0, idle_timeout_s=3.0, write_timeout_s=1.0)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what it was sent; `/flood` never ends, `/big` is larger than any buffer,
    `/large` than some, as is `/pieces`, which is sent in several."""
    if scope["type"] != "http":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body, more = b"", scope["path"] != "/refused"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    if scope["path"] == "/big":
        answer = bytes(64 << 20)
    elif scope["path"] in ("/large", "/pieces"):
        answer = bytes(8 << 20)
    else:
        names = [name.decode() for name, _ in scope["headers"]]
        answer = json.dumps({"path": scope["path"], "body": body.decode(), "names": names}).encode()
    size = str(len(answer)).encode()
    headers = [] if scope["path"] == "/flood" else [(b"content-length", size)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/flood":
        with contextlib.suppress(ClientDisconnect):
            await until_disconnect(receive, flood(send))
        return
    if scope["path"] == "/pieces":
        for at in range(0, len(answer), 1 << 20):
            piece = answer[at : at + (1 << 20)]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        answer = b""
    await send({"type": "http.response.body", "body": answer})


async def flood(send: Send) -> None:
    while True:
        await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        await asyncio.sleep(0)


def is_refused(reply: RawReply, status: int) -> bool:
    """In the shape of every error, and said to be the last on this connection."""
    assert reply.status == status, reply
    assert set(reply.error) >= {"message", "type", "param", "code"} and reply.error["message"]
    assert len(reply.headers["x-request-id"]) == 32
    assert reply.headers["connection"] == "close"
    assert reply.headers["content-type"] == "application/json"
    return True


def headers(count: int, value: bytes = b"v") -> bytes:
    return b"".join(b"x-%d: %b\r\n" % (at, value) for at in range(count))
