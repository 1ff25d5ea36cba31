"""Event streams through uvicorn, with clients that leave, stall or send too much."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from streams import Events, Source, yielding

from localinfra.api.http.bodies import BodyLimits
from localinfra.api.http.body import receive_body
from localinfra.api.http.errors import EXCEPTION_HANDLERS, json_response
from localinfra.api.http.guard import Access, Guard
from localinfra.api.http.sse import EventStream, until_disconnect

LIMITS = BodyLimits(max_bytes=100_000, timeout_s=9.0)


@asynccontextmanager
async def serving(endpoint: Callable[[Request], object]) -> AsyncIterator[int]:
    """Yields the port of a server with this one route, behind Guard."""
    app = Starlette(
        routes=[Route("/", endpoint, methods=["GET", "POST"])],
        middleware=[Middleware(Guard, access=Access())],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    config = uvicorn.Config(
        app, log_config=None, lifespan="off", timeout_graceful_shutdown=1, access_log=False
    )
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        listener.close()


REQUEST = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
EMPTY = REQUEST + b"content-length: 0\r\n\r\n"


async def until(condition: Callable[[], bool], limit_s: float = 2.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.002)


def test_a_closed_connection_frees_the_source_promptly(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        source = Source(0.01)

        async def endpoint(request: Request) -> Response:
            await receive_body(request, LIMITS)
            return EventStream(source.events())

        async with serving(endpoint) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(EMPTY)
            await reader.readuntil(b"data: 1\n\n")
            writer.close()
            await until(lambda: source.closed, 0.2)

    asyncio.run(run())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_client_that_leaves_before_a_whole_answer_cancels_its_work() -> None:
    async def run() -> None:
        source = Source()

        async def endpoint(request: Request) -> Response:
            await receive_body(request, LIMITS)

            async def work() -> None:
                async with aclosing(source.events()) as events:
                    async for _ in events:
                        await asyncio.sleep(60)

            return json_response(await until_disconnect(request.receive, work()))

        async with serving(endpoint) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(EMPTY)
            await until(lambda: source.started)
            writer.transport.abort()
            await until(lambda: source.closed, 0.2)

    asyncio.run(run())


def test_a_client_that_does_not_read_blocks_only_itself() -> None:
    async def run() -> None:
        pulled = 0

        async def flood() -> Events:
            nonlocal pulled
            while True:
                pulled += 1
                yield b"x" * 10_000
                await asyncio.sleep(0)

        async def endpoint(request: Request) -> Response:
            if await receive_body(request, LIMITS) == b"":
                return EventStream(flood())
            return EventStream(yielding(b"1"))

        async with serving(endpoint) as port:
            _, stalled = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            stalled.write(EMPTY)
            before = -1
            while before != pulled:  # until the sockets' buffers are full
                before = pulled
                await asyncio.sleep(0.05)
            reader, other = await asyncio.open_connection("127.0.0.1", port)
            other.write(REQUEST + b"content-length: 1\r\nconnection: close\r\n\r\n1")
            assert b"data: [DONE]" in await asyncio.wait_for(reader.read(), 60)
            assert pulled == before
            stalled.transport.abort()
            other.close()

    asyncio.run(run())


def test_shutdown_ends_streams() -> None:
    async def run() -> None:
        source = Source(0.01)

        async def endpoint(request: Request) -> Response:
            return EventStream(source.events())

        async with serving(endpoint) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(EMPTY)
            await reader.readuntil(b"data: 1\n\n")
        await until(lambda: source.closed, 0.2)
        writer.close()

    asyncio.run(run())


def test_body_limits_hold_on_a_real_connection() -> None:
    async def run() -> None:
        async def endpoint(request: Request) -> Response:
            body = await receive_body(request, BodyLimits(max_bytes=100_000, timeout_s=0.3))
            return json_response(len(body))

        async def ask(port: int, *parts: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for part in parts:
                writer.write(part)
                await writer.drain()
            answer = await asyncio.wait_for(reader.readuntil(b"}"), 60)
            writer.close()
            return answer

        async with serving(endpoint) as port:
            chunked = REQUEST + b"transfer-encoding: chunked\r\n\r\n"
            piece = b"c350\r\n" + b"x" * 50_000 + b"\r\n"
            late = await ask(port, chunked, b"1\r\n{\r\n")
            assert late.startswith(b"HTTP/1.1 408") and b"connection: close" in late
            assert (await ask(port, chunked, *[piece] * 40)).startswith(b"HTTP/1.1 413")
            declared = REQUEST + b"content-length: 999999999\r\nexpect: 100-continue\r\n\r\n"
            assert (await ask(port, declared)).startswith(b"HTTP/1.1 413")

    asyncio.run(run())
