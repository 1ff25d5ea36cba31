"""Event streams: on a scripted wire first, then through uvicorn, where clients leave or stall."""

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
import uvicorn
from asgi import Reply, call, scope_of
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Scope

from localinfra.api.http.body import BodyLimits, receive_body
from localinfra.api.http.errors import EXCEPTION_HANDLERS, json_response
from localinfra.api.http.guard import Guard
from localinfra.api.http.sse import EventStream, NamedEvent, NamedEventStream, until_disconnect
from localinfra.errors import ApiError, EngineFailed

Events = AsyncGenerator[bytes | list[bytes], None]


LIMITS = BodyLimits(max_bytes=100_000, timeout_s=9.0)


async def yielding(*payloads: bytes | list[bytes] | Exception | float) -> Events:
    for payload in payloads:
        if isinstance(payload, Exception):
            raise payload
        if isinstance(payload, float):
            await asyncio.sleep(payload)
        else:
            yield payload


def stream(*payloads: bytes | list[bytes] | Exception | float, keepalive_s: float = 9) -> Reply:
    async def app(scope, receive, send):  # type: ignore[no-untyped-def]
        await EventStream(yielding(*payloads), {"x-extra": "1"}, keepalive_s)(scope, receive, send)

    return call(app, scope_of())


def test_each_payload_is_an_event_and_done_is_last() -> None:
    assert stream(b"{}", b"[1]").body == b"data: {}\n\ndata: [1]\n\ndata: [DONE]\n\n"


def test_a_list_of_payloads_is_the_same_events() -> None:
    assert stream([b"1", b"2"], [], b"3").body == stream(b"1", b"2", b"3").body


def test_headers_keep_proxies_from_buffering() -> None:
    reply = stream()
    assert reply.status == 200
    assert reply.header("content-type") == "text/event-stream; charset=utf-8"
    assert reply.header("cache-control") == "no-cache"
    assert reply.header("x-accel-buffering") == "no"
    assert reply.header("content-length") is None and reply.header("x-extra") == "1"


def test_an_error_becomes_the_last_event() -> None:
    body = stream(b"1", EngineFailed("out of memory")).body
    first, error, rest = body.split(b"\n\n")
    assert (first, rest) == (b"data: 1", b"")
    assert error.startswith(b'data: {"error":{"message":"out of memory"')


def test_an_unexpected_error_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    body = stream(b"1", ZeroDivisionError("private")).body
    assert b'"code":"engine_failed"' in body and b"request_id" in body
    assert b"private" not in body and b"[DONE]" not in body
    assert "private" in caplog.text


def test_silence_is_filled_with_comments() -> None:
    body = stream(0.25, b"1", keepalive_s=0.1).body
    assert body == b": keep-alive\n\n: keep-alive\n\ndata: 1\n\ndata: [DONE]\n\n"


def test_frequent_events_need_no_comments() -> None:
    frequent: list[bytes | float] = [b"1", 0.02] * 10
    assert b"keep-alive" not in stream(*frequent, keepalive_s=0.1).body


def named_stream(
    *items: NamedEvent | list[NamedEvent] | Exception | float, **options: Any
) -> Reply:
    async def events() -> AsyncGenerator[NamedEvent | list[NamedEvent], None]:
        for item in items:
            if isinstance(item, Exception):
                raise item
            if isinstance(item, float):
                await asyncio.sleep(item)
            else:
                yield item

    def error_event(error: ApiError, scope: Scope) -> NamedEvent:
        return "oh", f'"{error.message}"'.encode()

    async def app(scope, receive, send):  # type: ignore[no-untyped-def]
        await NamedEventStream(events(), error_event, **options)(scope, receive, send)

    return call(app, scope_of())


def test_silence_is_filled_with_events_where_clients_wait_for_them() -> None:
    beats = iter(range(100))

    def sign_of_life() -> NamedEvent:
        return "ping", b"%d" % next(beats)

    body = named_stream(
        ("start", b"1"), 0.25, ("stop", b"2"), keepalive_s=0.1, sign_of_life=sign_of_life
    ).body
    assert body == (
        b"event: start\ndata: 1\n\nevent: ping\ndata: 0\n\nevent: ping\ndata: 1\n\n"
        b"event: stop\ndata: 2\n\n"
    )


def test_events_with_names_end_without_a_mark() -> None:
    body = named_stream(("start", b"1"), [("part", b"2"), ("part", b"3")], [("stop", b"4")]).body
    assert body == (
        b"event: start\ndata: 1\n\nevent: part\ndata: 2\n\nevent: part\ndata: 3\n\n"
        b"event: stop\ndata: 4\n\n"
    )


def test_an_error_among_events_with_names_has_the_name_its_api_gives_it() -> None:
    body = named_stream(("start", b"1"), EngineFailed("out of memory")).body
    assert body == b'event: start\ndata: 1\n\nevent: oh\ndata: "out of memory"\n\n'


class Client:
    """A scripted far end: leaves when told to, or fails writes as some servers do."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.sent: list[Message] = []
        self.fail_with: OSError | None = None

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.fail_with and message["type"] == "http.response.body":
            raise self.fail_with
        self.sent.append(message)


class Source:
    """Endless events, and whether they were started and closed."""

    def __init__(self, pause_s: float = 0.0) -> None:
        self.pause_s = pause_s
        self.started = self.closed = False

    async def events(self) -> Events:
        self.started = True
        try:
            while True:
                await asyncio.sleep(self.pause_s)
                yield b"1"
        finally:
            await asyncio.sleep(0)  # cleanup may await
            self.closed = True


@pytest.mark.parametrize("pause_s", [0.0, 60.0], ids=["while sending", "while waiting"])
def test_a_client_that_leaves_closes_the_source(pause_s: float) -> None:
    async def run() -> None:
        source, client = Source(pause_s), Client()
        answer = EventStream(source.events())(scope_of(), client.receive, client.send)
        task = asyncio.create_task(answer)
        await asyncio.sleep(0.02)
        assert source.started and not source.closed
        client.left.set()
        with pytest.raises(ClientDisconnect):
            await asyncio.wait_for(task, 1)
        assert source.closed

    asyncio.run(run())


def test_a_client_that_left_before_the_answer_still_closes_the_source() -> None:
    async def run() -> None:
        source, client = Source(), Client()
        client.left.set()
        with pytest.raises(ClientDisconnect):
            await EventStream(source.events())(scope_of(), client.receive, client.send)
        assert source.started and source.closed  # had it not started, its `finally` would not run

    asyncio.run(run())


def test_a_failing_write_closes_the_source() -> None:
    async def run() -> None:
        source, client = Source(), Client()
        client.fail_with = BrokenPipeError()
        with pytest.raises(ClientDisconnect):
            await EventStream(source.events())(scope_of(), client.receive, client.send)
        assert source.closed

    asyncio.run(run())


class Place:
    """In a queue."""

    def __init__(self) -> None:
        self.is_taken = True

    async def aclose(self) -> None:
        self.is_taken = False


def test_a_place_is_given_back_though_the_events_never_began() -> None:
    async def fails(message: Message) -> None:
        raise BrokenPipeError

    async def run() -> None:
        source, client, place = Source(), Client(), Place()
        answer = EventStream(source.events(), source=place)
        with pytest.raises(OSError):
            await answer(scope_of(), client.receive, fails)
        assert not source.started and not place.is_taken

    asyncio.run(run())


@pytest.mark.parametrize("steps", range(1, 12))
def test_shutdown_at_any_step_gives_the_place_back(steps: int) -> None:
    async def run() -> None:
        client, place = Client(), Place()
        answer = EventStream(Source().events(), source=place)
        task = asyncio.create_task(answer(scope_of(), client.receive, client.send))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not place.is_taken

    asyncio.run(run())


@pytest.mark.parametrize("steps", range(12))
def test_shutdown_at_any_step_closes_the_source(steps: int) -> None:
    async def run() -> None:
        source, client = Source(), Client()
        answer = EventStream(source.events())(scope_of(), client.receive, client.send)
        task = asyncio.create_task(answer)
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert source.closed == source.started
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1  # nothing of the answer runs on

    asyncio.run(run())


# until_disconnect: the same for answers in one piece.


async def client_that_stays() -> Message:
    await asyncio.sleep(3600)
    raise AssertionError


def test_work_that_ends_gives_its_result() -> None:
    async def work() -> int:
        return 7

    assert asyncio.run(until_disconnect(client_that_stays, work())) == 7


def test_work_that_fails_raises_its_error() -> None:
    async def work() -> int:
        raise EngineFailed("no")

    with pytest.raises(EngineFailed):
        asyncio.run(until_disconnect(client_that_stays, work()))


@pytest.mark.parametrize("already_gone", [True, False])
def test_work_is_cancelled_and_cleaned_up_when_the_client_leaves(already_gone: bool) -> None:
    async def run() -> None:
        client, log = Client(), []

        async def work() -> None:
            log.append("started")
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.01)
                log.append("cleaned up")

        if already_gone:
            client.left.set()
        asyncio.get_running_loop().call_later(0.01, client.left.set)
        with pytest.raises(ClientDisconnect):
            await until_disconnect(client.receive, work())
        assert log == ["started", "cleaned up"]

    asyncio.run(run())


# Through uvicorn on a loopback port.


@asynccontextmanager
async def serving(endpoint: Callable[[Request], object]) -> AsyncIterator[int]:
    """Yields the port of a server with this one route, behind Guard."""
    app = Starlette(
        routes=[Route("/", endpoint, methods=["GET", "POST"])],
        middleware=[Middleware(Guard)],
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


def test_a_client_leaving_before_an_answer_in_one_piece_frees_its_work() -> None:
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


def test_a_client_that_does_not_read_holds_up_only_itself() -> None:
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
            assert b"data: [DONE]" in await asyncio.wait_for(reader.read(), 1)
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
            answer = await asyncio.wait_for(reader.readuntil(b"}"), 2)
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
