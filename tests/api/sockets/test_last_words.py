"""What would be written into a connection if the server died now, as its answer goes on."""

import asyncio
import contextlib
import functools
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from localinfra.api.http.state import RequestState
from localinfra.api.sockets.last_words import LastWords, answer
from localinfra.wills import WILL_BYTES, Heir, Wills


class Transport:
    """Sends at once what a quick client is written, else holds it."""

    def __init__(self, own: socket.socket) -> None:
        self._own = own
        self.unsent = b""
        self.is_quick = False
        self.is_aborted = False

    def get_extra_info(self, name: str) -> Any:
        return self._own if name == "socket" else None

    def get_write_buffer_size(self) -> int:
        return len(self.unsent)

    def write(self, data: bytes) -> None:
        self.unsent += b"" if self.is_quick else data

    def is_closing(self) -> bool:
        return self.is_aborted


class Answering:
    """One request on one connection of a supervised server."""

    def __init__(self, heir: Heir, wills: Wills, own: socket.socket) -> None:
        self._heir = heir
        self.transport = Transport(own)
        self.words = LastWords(wills)
        self.scope = {"method": "POST", "path": "/v1/chat/completions", "state": {}}
        RequestState.of(self.scope).id = "an-id"
        RequestState.of(self.scope).headers = {"x-request-id": "an-id"}
        self.cycle = SimpleNamespace(
            scope=self.scope, transport=self.transport, response_started=False,
            response_complete=False, chunked_encoding=None, disconnected=False,
        )  # fmt: skip

    def begin(self) -> None:
        self.words.begin(self.cycle)  # type: ignore[arg-type]  # what a cycle has of use here

    def write(self, data: bytes) -> None:
        self.cycle.transport.write(data)

    def begin_stream(self) -> None:
        self.cycle.response_started, self.cycle.chunked_encoding = True, True
        RequestState.of(self.scope).streamed = "text/event-stream"

    @property
    def text(self) -> bytes:
        return self._heir._text(0)


@pytest.fixture
def answering() -> Iterator[Answering]:
    with contextlib.ExitStack() as stack:
        heir = Heir(stack.enter_context(tempfile.TemporaryFile()))
        _, own = (stack.enter_context(one) for one in socket.socketpair())
        with heir.testator() as (channel, memory):
            end = stack.enter_context(socket.socket(fileno=os.dup(channel)))
        yield Answering(heir, Wills(end, memory), own)
        heir.settle(is_told=False)  # closes the rest


def in_loop(test: Callable[[Answering], Awaitable[None]]) -> Callable[[Answering], None]:
    async def run(answering: Answering) -> None:
        await test(answering)

    return functools.wraps(test)(lambda answering: asyncio.run(run(answering)))


async def turn() -> None:
    """Of the event loop."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@in_loop
async def test_a_stream_may_be_ended_whenever_all_its_chunks_are_sent(answering: Answering) -> None:
    answering.begin()
    await turn()
    assert answering.text.startswith(b"HTTP/1.1 503 ") and b"x-request-id: an-id" in answering.text
    answering.begin_stream()
    for data in (b"head", b"chunk", b"chunk"):
        answering.write(data)
        assert answering.text == b""
        answering.transport.unsent = b""
        await turn()
        size, _, rest = answering.text.partition(b"\r\n")
        assert rest[int(size, 16) :] == b"\r\n0\r\n\r\n" and rest.startswith(b'data: {"error":')
    answering.cycle.response_complete = True
    answering.write(b"0\r\n\r\n")
    answering.transport.unsent = b""
    await turn()
    assert answering.text == b""


@in_loop
async def test_between_chunks_that_are_sent_at_once_it_may_be_ended(answering: Answering) -> None:
    answering.transport.is_quick = True
    answering.begin()
    await turn()
    answering.begin_stream()
    answering.write(b"head")
    assert answering.text == b""
    await turn()
    for _ in range(2):
        answering.write(b"chunk")
        assert answering.text.endswith(b"\r\n0\r\n\r\n")
    answering.write(b"0\r\n\r\n")
    assert answering.text == b""
    answering.cycle.response_complete = True
    await turn()
    assert answering.text == b""


@in_loop
async def test_nothing_may_be_written_after_half_a_chunk(answering: Answering) -> None:
    answering.begin()
    await turn()
    answering.begin_stream()
    answering.write(b"a chunk for a slow client")
    await turn()
    assert answering.text == b""
    answering.write(b"another")
    answering.transport.unsent = b""
    await turn()
    assert answering.text


@in_loop
async def test_nothing_may_be_written_into_the_answer_before(answering: Answering) -> None:
    answering.transport.unsent = b"the end of the last answer"
    answering.begin()
    await turn()
    assert answering.text == b""


@in_loop
async def test_nothing_may_be_written_into_what_is_no_stream(answering: Answering) -> None:
    answering.begin()
    await turn()
    answering.cycle.response_started, answering.cycle.chunked_encoding = True, False
    answering.write(b"head")
    answering.transport.unsent = b""
    await turn()
    assert answering.text == b""


@in_loop
async def test_quick_answers_cost_nothing(answering: Answering) -> None:
    answering.begin()
    answering.cycle.response_complete = True
    await turn()
    assert answering.cycle.transport is answering.transport


@in_loop
async def test_a_text_that_is_too_long_is_none(answering: Answering) -> None:
    RequestState.of(answering.scope).headers = {"vary": "x" * WILL_BYTES}
    answering.begin()
    await turn()
    assert answering.text == b""


@in_loop
async def test_a_request_is_told_also_after_100_continue(answering: Answering) -> None:
    """Which uvloop sends at the end of its turn, in which this began."""
    answering.transport.unsent = b"HTTP/1.1 100 Continue"
    answering.begin()
    asyncio.get_running_loop().call_soon(setattr, answering.transport, "unsent", b"")
    await turn()
    await turn()
    assert answering.text.startswith(b"HTTP/1.1 503 ")
    answering.write(b"HTTP/1.1 100 Continue")
    assert answering.text == b""
    answering.transport.unsent = b""
    await turn()
    assert answering.text.startswith(b"HTTP/1.1 503 ")


@in_loop
async def test_nothing_may_be_written_once_unsent_data_was_dropped(answering: Answering) -> None:
    answering.begin()
    await turn()
    answering.begin_stream()
    answering.write(b"head")
    answering.transport.unsent = b""
    await turn()
    assert answering.text
    answering.write(b"a chunk of which half is sent")
    answering.transport.unsent, answering.transport.is_aborted = b"", True
    answering.transport.is_quick = True
    answering.write(b"chunk")
    assert answering.text == b""
    await turn()
    assert answering.text == b""


@in_loop
async def test_a_head_request_gets_no_body(answering: Answering) -> None:
    whole = answer({**answering.scope, "method": "POST"})
    head = answer({**answering.scope, "method": "HEAD"})
    assert head.endswith(b"\r\n\r\n") and whole.startswith(head) and len(whole) > len(head)
