"""Event streams on a scripted connection, whose client leaves at every step."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from asgi import Reply, call, scope_of
from starlette.requests import ClientDisconnect
from starlette.types import Message, Scope
from streams import Client, Source, yielding

from localinfra.api.http.sse import EventStream, NamedEvent, NamedEventStream, until_disconnect
from localinfra.api.http.state import RequestState
from localinfra.errors import ApiError, EngineFailed


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


def test_an_unexpected_error_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
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


def test_silence_is_filled_with_heartbeat_events() -> None:
    beats = iter(range(100))

    def heartbeat_event() -> NamedEvent:
        return "ping", b"%d" % next(beats)

    body = named_stream(
        ("start", b"1"), 0.25, ("stop", b"2"), keepalive_s=0.1, heartbeat_event=heartbeat_event
    ).body
    assert body == (
        b"event: start\ndata: 1\n\nevent: ping\ndata: 0\n\nevent: ping\ndata: 1\n\n"
        b"event: stop\ndata: 2\n\n"
    )


def test_named_events_end_without_an_end_mark() -> None:
    body = named_stream(("start", b"1"), [("part", b"2"), ("part", b"3")], [("stop", b"4")]).body
    assert body == (
        b"event: start\ndata: 1\n\nevent: part\ndata: 2\n\nevent: part\ndata: 3\n\n"
        b"event: stop\ndata: 4\n\n"
    )


def test_an_error_among_named_events_has_its_apis_name() -> None:
    body = named_stream(("start", b"1"), EngineFailed("out of memory")).body
    assert body == b'event: start\ndata: 1\n\nevent: oh\ndata: "out of memory"\n\n'


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
            await asyncio.wait_for(task, 60)
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
    """A place in a queue."""

    def __init__(self) -> None:
        self.is_taken = True

    async def aclose(self) -> None:
        self.is_taken = False


def test_the_place_is_freed_even_if_the_events_never_began() -> None:
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
def test_shutdown_at_any_step_frees_the_place(steps: int) -> None:
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
        assert len(asyncio.all_tasks()) == 1  # no task of the response is left

    asyncio.run(run())


@pytest.mark.parametrize("steps", range(30))
def test_a_stream_that_is_cancelled_at_any_step_ends_once(steps: int) -> None:
    async def run() -> None:
        client, scope = Client(), scope_of()

        async def slowly(message: Message) -> None:
            await client.send(message)
            for _ in range(3):
                await asyncio.sleep(0)

        answer = EventStream(yielding(b"1", b"2"))(scope, client.receive, slowly)
        task = asyncio.create_task(answer)
        for _ in range(steps):
            await asyncio.sleep(0)
        RequestState.of(scope).is_cancelled = True
        client.left.set()
        with contextlib.suppress(ClientDisconnect):  # when the last bytes were on their way
            await task
        bodies = [sent for sent in client.sent if sent["type"] == "http.response.body"]
        assert [sent["more_body"] for sent in bodies] == [True] * (len(bodies) - 1) + [False]
        is_whole = bodies[-1]["body"] == b"data: [DONE]\n\n"
        assert is_whole or b"request_cancelled" in bodies[-1]["body"]

    asyncio.run(run())


# until_disconnect: the same for whole answers.


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
