"""A request's body: content type, size, pace, and the limit on all bodies together."""

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec
import pytest
from asgi import scope_of
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from localinfra.api.http.bodies import FREE_BYTES, BodyLimits, UnfinishedBodies
from localinfra.api.http.body import Decoded, read_body, receive_body
from localinfra.errors import (
    BodyTooLarge,
    QueueFull,
    RequestTimeout,
    UnsupportedMediaType,
)


class Chat(msgspec.Struct):
    model: str
    temperature: float = 1.0


OK = [("content-type", "application/json")]
SMALL = BodyLimits(max_bytes=100, timeout_s=0.2)


def read(
    chunks: Sequence[bytes | float | None],
    headers: Sequence[tuple[str, str]] = OK,
) -> Decoded[Chat]:
    """Reads a body from these chunks; a number is a pause in seconds, None a disconnect."""
    queue = list(chunks)

    async def receive() -> Message:
        while isinstance(chunk := queue.pop(0), float):
            await asyncio.sleep(chunk)
        if chunk is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": bool(queue)}

    async def run() -> Decoded[Chat]:
        return await read_body(Request(scope_of("POST", headers=headers), receive), Chat, SMALL)

    return asyncio.run(run())


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json;",
        "application/vnd.api+json",
    ],
)
def test_json_content_types_are_read(content_type: str) -> None:
    assert read([b'{"model": "a"}'], [("content-type", content_type)]).value.model == "a"


@pytest.mark.parametrize("encoding", ["", "identity", "Identity"])
def test_a_body_may_say_that_it_is_not_compressed(encoding: str) -> None:
    sent = [*OK, ("content-encoding", encoding)]
    assert read([b'{"model": "a"}'], sent).value.model == "a"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("content-type", "")],
        [("content-type", "text/plain")],
        [("content-type", "text/plain; application/json")],
        [("content-type", "application/x-www-form-urlencoded")],
        [("content-type", "multipart/form-data; boundary=x")],
        [("content-type", "application/jsonp")],
        [("content-type", "application/json; charset=latin-1")],
        [("content-type", "application/json, text/plain")],
        [*OK, ("content-encoding", "gzip")],
    ],
)
def test_other_content_types_are_refused_unread(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(UnsupportedMediaType):
        read([], headers)


@pytest.mark.parametrize("size", range(1, 16))
def test_a_body_may_come_in_pieces_of_any_size(size: int) -> None:
    body = b'{"model": "a"}'
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    assert read([*pieces, b""]).value == read(pieces).value == Chat("a")


def padded(size: int) -> bytes:
    return b'{"model": "a"}'.ljust(size)


def test_a_body_of_exactly_the_limit_is_read() -> None:
    assert read([padded(100)]).value == Chat("a")


def test_a_larger_body_is_refused_as_soon_as_that_is_known() -> None:
    for chunks in ([padded(101)], [padded(60), padded(41), b"never read"]):
        with pytest.raises(BodyTooLarge):
            read(chunks)


def test_a_declared_length_over_the_limit_is_refused_unread() -> None:
    for length in ("101", "1" * 5000):
        with pytest.raises(BodyTooLarge):
            read([], [*OK, ("content-length", length)])


@pytest.mark.parametrize("length", ["1", "-5", "abc", "", "²"])
def test_a_declared_length_is_not_trusted(length: str) -> None:
    assert read([padded(50)], [*OK, ("content-length", length)]).value == Chat("a")
    with pytest.raises(BodyTooLarge):
        read([padded(101)], [*OK, ("content-length", length)])


def test_a_slow_body_is_refused() -> None:
    drip = [part for byte in padded(50) for part in (0.03, bytes([byte]))]
    slow: list[list[bytes | float]] = [[5.0, b""], [b'{"mo', 5.0, b""], drip]
    for chunks in slow:
        with pytest.raises(RequestTimeout):
            read(chunks)


def test_a_client_that_leaves_ends_the_request() -> None:
    for chunks in ([None], [b'{"mo', None]):
        with pytest.raises(ClientDisconnect):
            read(chunks)


def test_unfinished_bodies_share_one_limit() -> None:
    free = FREE_BYTES
    bodies = UnfinishedBodies(1000)
    for size in (1, free // 2, free):  # ordinary bodies are not counted
        bodies.grow("one", 0, size)
    bodies.grow("one", 0, free + 600)
    with pytest.raises(QueueFull):
        bodies.grow("one", free, free + 401)
    bodies.grow("one", free, free + 400)
    bodies.grow("one", 0, free)  # there is always room for a small one
    bodies.grow("other", 0, free + 500)  # and for the share of another client
    with pytest.raises(QueueFull):
        bodies.grow("other", free, free + 1)
    bodies.done("other", free + 500)
    bodies.done("one", free + 600)
    bodies.done("one", free + 400)
    assert bodies.num_bytes == 0


@pytest.mark.parametrize(
    "end", [b"", b"]", None], ids=["cut by its limit", "whole", "the client leaves"]
)
def test_a_body_frees_its_bytes_however_it_ends(end: bytes | None) -> None:
    bodies = UnfinishedBodies(10_000_000)
    limits = BodyLimits(300_000, 5.0, bodies)
    chunk = b"[" + b"0," * 50_000

    async def run() -> None:
        messages: list[Message] = [{"type": "http.request", "body": chunk, "more_body": True}]
        if end is None:
            messages += [{"type": "http.disconnect"}]
        elif end:
            messages += [{"type": "http.request", "body": end, "more_body": False}]
        else:
            messages *= 4  # of which three fit

        async def receive() -> Message:
            if len(messages) == 1:
                assert bodies.num_bytes > 0
            return messages.pop(0)

        with contextlib.suppress(ClientDisconnect, BodyTooLarge):
            await receive_body(Request(scope_of("POST"), receive), limits)

    asyncio.run(run())
    assert bodies.num_bytes == 0
