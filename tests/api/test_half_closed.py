"""A client that says it sends no more: it may wait for its answer, or be gone."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Iterator

import pytest
from serving import RawReply, Serving, Talk, wait_for
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from localinfra.api.leaving import Leaving
from localinfra.api.sse import EventStream

running: set[str] = set()  # paths that are being worked for
LATE_S = 4.0  # longer than it takes to find out that nobody waits


async def work(path: str) -> None:
    running.add(path)
    try:
        await asyncio.sleep(LATE_S if path.startswith("/late") else 600)
    finally:
        running.discard(path)


async def events(path: str) -> AsyncGenerator[bytes, None]:
    await work(path)
    yield b"{}"


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive, send)
    path = scope["path"]
    body = await request.body()
    if "stream" in path:
        response: Response = EventStream(events(path), keepalive_s=600)
    else:
        if path != "/":
            await work(path)
        response = Response(b"%b %b" % (path.encode(), body))
    await response(scope, receive, send)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await Leaving(answer)(scope, receive, send)
        return
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    serving = Serving(app)
    yield serving
    serving.close()


def post(path: str, version: str = "1.1") -> bytes:
    head = f"POST {path} HTTP/{version}\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n"
    return head.encode() + b"hi"


def everything(talk: Talk) -> bytes:
    """All that comes until the server closes."""
    received = b""
    while data := talk.connection.recv(65536):
        received += data
    return received


def last_reply(talk: Talk) -> RawReply:
    while (reply := talk.reply()).status == 102:
        pass
    return reply


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("path", ["/", "/late"])
def test_it_gets_its_whole_answer(server: Serving, path: str, version: str) -> None:
    with server.talk() as talk:
        talk.send(post(path, version))
        talk.connection.shutdown(socket.SHUT_WR)
        reply = last_reply(talk)
        assert (reply.status, reply.body) == (200, f"{path} hi".encode())
        assert talk.is_closed()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_it_gets_its_whole_stream(server: Serving, version: str) -> None:
    with server.talk() as talk:
        talk.send(post("/late-stream", version))
        talk.connection.shutdown(socket.SHUT_WR)
        received = everything(talk)
        assert received.startswith(b"HTTP/1.1 200") and b"data: {}" in received
        assert b"data: [DONE]" in received and b"102" not in received


def test_all_that_it_sent_before_is_answered(server: Serving) -> None:
    with server.talk() as talk:
        talk.send(post("/") * 3)
        talk.connection.shutdown(socket.SHUT_WR)
        assert everything(talk).count(b"/ hi") == 3


@pytest.mark.parametrize("sent", [b"", b"GET", post("/late")[:-1]])
def test_half_a_request_is_not_waited_for(server: Serving, sent: bytes) -> None:
    with server.talk() as talk:
        talk.send(sent)
        talk.connection.shutdown(socket.SHUT_WR)
        assert everything(talk) == b""


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("path", ["/ever", "/ever-stream"])
def test_the_work_for_one_who_left_ends(server: Serving, path: str, version: str) -> None:
    with server.talk() as talk:
        talk.send(post(path, version))
        wait_for(lambda: path in running)
    with contextlib.suppress(OSError):
        talk.connection.close()
    wait_for(lambda: path not in running)
    wait_for(lambda: len(server.server.open) == 0)
