"""Server-sent events: payloads → framed bytes, and the cleanup when either side ends early.

Knows no payload's meaning. A disconnect closes the source, which frees whatever it holds.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from localinfra.api.http.errors import as_api_error, error_body
from localinfra.api.http.state import RequestState
from localinfra.errors import ApiError, RequestCancelled

T = TypeVar("T")
Item = TypeVar("Item")
NamedEvent: TypeAlias = tuple[str, bytes]  # its name and its JSON

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


class Closable(Protocol):
    async def aclose(self) -> None: ...


class Stream(Response, Generic[Item]):
    """Sends items as events. Subclasses define the framing, the error event and the end mark.

    `events` yields an item or a list of items (JSON on a single line, as msgspec encodes it). A
    list is one write to the socket: yield together what is ready together. Headers go out at once:
    raise errors that need an HTTP status before making the response. A later error becomes the
    last event, without the end mark, which only a complete answer gets.

    The response owns `events` and its `source` (a place in a queue) and closes both in any case.
    (Python skips the `finally` of a generator that never started, so `events` can't be relied on
    to close its source.) A slow reader only blocks its own `events`. After `keepalive_s` of
    silence a heartbeat is sent.
    """

    media_type = "text/event-stream"
    end = b""

    def __init__(
        self,
        events: AsyncGenerator[Item | list[Item], None],
        headers: Mapping[str, str] | None = None,
        keepalive_s: float = math.inf,
        source: Closable | None = None,
    ):
        self.events = events
        self.source = source
        self.keepalive_s = keepalive_s
        self.status_code = 200
        self.background = None
        # Proxies (nginx) would otherwise hold events back to fill a buffer.
        own = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        self.init_headers({**own, **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wire = Wire(send)
        try:
            await until_disconnect(receive, self.stream(scope, wire))
        except ClientDisconnect:
            if wire.has_ended or not RequestState.of(scope).is_cancelled:
                raise
            await wire.write(self.frame(self.failure(RequestCancelled(), scope)), last=True)
        finally:
            if self.source is not None:
                await self.source.aclose()

    async def stream(self, scope: Scope, wire: "Wire") -> None:
        RequestState.of(scope).streamed = self.media_type
        await wire.start(self.status_code, self.raw_headers)
        heartbeat = asyncio.create_task(wire.keep_alive(self.keepalive_s, self.heartbeat))
        try:
            await wire.write(await self.relay(scope, wire), last=True)
        finally:
            heartbeat.cancel()

    async def relay(self, scope: Scope, wire: "Wire") -> bytes:
        """Sends all events. Returns the stream's last bytes: the end mark or an error event."""
        try:
            async with contextlib.aclosing(self.events):
                async for ready in self.events:
                    items = ready if isinstance(ready, list) else [ready]
                    await wire.write(b"".join([self.frame(item) for item in items]))
        except ClientDisconnect:
            raise
        except Exception as error:
            return self.frame(self.failure(as_api_error(error, scope), scope))
        return self.end

    def frame(self, item: Item) -> bytes:
        raise NotImplementedError

    def failure(self, error: ApiError, scope: Scope) -> Item:
        """The event for an error."""
        raise NotImplementedError

    def heartbeat(self) -> bytes:
        """The bytes sent after `keepalive_s` of silence."""
        return KEEP_ALIVE


class EventStream(Stream[bytes]):
    """Payloads as `data: PAYLOAD`, then `data: [DONE]`; an error as `data: {"error": ...}`."""

    end = DONE

    def frame(self, item: bytes) -> bytes:
        return b"data: %b\n\n" % item

    def failure(self, error: ApiError, scope: Scope) -> bytes:
        return error_body(error, scope)


class NamedEventStream(Stream[NamedEvent]):
    """Events with names. No end mark: a complete answer ends in an event of its own."""

    def __init__(
        self,
        events: AsyncGenerator[NamedEvent | list[NamedEvent], None],
        error_event: Callable[[ApiError, Scope], NamedEvent],
        headers: Mapping[str, str] | None = None,
        keepalive_s: float = math.inf,
        source: Closable | None = None,
        *,
        heartbeat_event: Callable[[], NamedEvent] | None = None,
    ):
        """`heartbeat_event` makes the event to send as heartbeat; without it, a comment is sent."""
        super().__init__(events, headers, keepalive_s, source)
        self.error_event = error_event
        self.heartbeat_event = heartbeat_event

    def frame(self, item: NamedEvent) -> bytes:
        name, payload = item
        return b"event: %b\ndata: %b\n\n" % (name.encode(), payload)

    def failure(self, error: ApiError, scope: Scope) -> NamedEvent:
        return self.error_event(error, scope)

    def heartbeat(self) -> bytes:
        return self.frame(self.heartbeat_event()) if self.heartbeat_event else super().heartbeat()


class FramedStream(Stream[bytes]):
    """Events that another stream has framed already."""

    def frame(self, item: bytes) -> bytes:
        return item

    def failure(self, error: ApiError, scope: Scope) -> bytes:
        return b"event: error\ndata: %b\n\n" % error_body(error, scope)


class Wire:
    """The sending end of one response, and when it was last used."""

    def __init__(self, send: Send):
        self.send = send
        self.has_ended = False  # the last bytes were handed over, if not yet taken
        self.clock = asyncio.get_running_loop().time
        self.last_sent_s = self.clock()

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        self.last_sent_s = self.clock()

    async def write(self, data: bytes, last: bool = False) -> None:
        self.has_ended = self.has_ended or last
        try:
            await self.send({"type": "http.response.body", "body": data, "more_body": not last})
        except OSError:  # some servers raise it if the client is gone
            raise ClientDisconnect from None
        self.last_sent_s = self.clock()

    async def keep_alive(self, interval_s: float, heartbeat: Callable[[], bytes]) -> None:
        """Writes a heartbeat after each `interval_s` of silence, until cancelled."""
        with contextlib.suppress(ClientDisconnect):  # the task that writes events gets it too
            while not self.has_ended:
                wait_s = self.last_sent_s + interval_s - self.clock()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                else:
                    await self.write(heartbeat())


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Runs `work` and cancels it if the client disconnects; returns once its cleanup is done.

    Call it after the body was read. `work` takes its first step before a disconnect can cancel it.
    Raises ClientDisconnect; send nothing then.
    """
    task = asyncio.create_task(work)  # before the watch: tasks start in this order
    watch = asyncio.create_task(disconnected(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        watch.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


async def disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
