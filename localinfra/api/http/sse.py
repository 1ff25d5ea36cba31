"""Server-sent events: payloads → framed bytes, and what happens when either side ends early.

Knows no payload's meaning. The client's leaving closes the source, so whatever it holds is freed.
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
from localinfra.errors import ApiError

T = TypeVar("T")
Item = TypeVar("Item")
NamedEvent: TypeAlias = tuple[str, bytes]  # its name and its JSON

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


class Closable(Protocol):
    async def aclose(self) -> None: ...


class Stream(Response, Generic[Item]):
    """Sends items as events. How one looks, an error and the end, is up to the subclass.

    `events` yields one item or a list of them (JSON in a single line, as msgspec encodes); a list
    is one write to the socket, so yield together what is ready together. Headers go out at once:
    raise what should become an HTTP status before making the response. An error afterwards is the
    last event, and the end mark stays away: that stands for a whole answer.

    `events` and its `source`, a place taken in a queue, are owned by the response: both are closed
    however that ends. (Python skips the `finally` of a generator never started, so `events` can't
    be trusted to close what it reads from.) A slow reader only holds up its own `events`. After
    `keepalive_s` of silence it gets a sign of life.
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
        try:
            await until_disconnect(receive, self.stream(scope, send))
        finally:
            if self.source is not None:
                await self.source.aclose()

    async def stream(self, scope: Scope, send: Send) -> None:
        wire = Wire(send)
        await wire.start(self.status_code, self.raw_headers)
        heartbeat = asyncio.create_task(wire.keep_alive(self.keepalive_s, self.heartbeat))
        try:
            await wire.write(await self.relay(scope, wire), last=True)
        finally:
            heartbeat.cancel()

    async def relay(self, scope: Scope, wire: "Wire") -> bytes:
        """Sends all events and returns what closes the stream: its end mark, or an error event."""
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
        """The event that tells of an error."""
        raise NotImplementedError

    def heartbeat(self) -> bytes:
        """What is sent where nothing else was for a while."""
        return KEEP_ALIVE


class EventStream(Stream[bytes]):
    """Each payload as `data: PAYLOAD`, then `data: [DONE]`; an error as `data: {"error": ...}`."""

    end = DONE

    def frame(self, item: bytes) -> bytes:
        return b"data: %b\n\n" % item

    def failure(self, error: ApiError, scope: Scope) -> bytes:
        return error_body(error, scope)


class NamedEventStream(Stream[NamedEvent]):
    """Events with names. The last of a whole answer says so itself: there is no end mark."""

    def __init__(
        self,
        events: AsyncGenerator[NamedEvent | list[NamedEvent], None],
        error_event: Callable[[ApiError, Scope], NamedEvent],
        headers: Mapping[str, str] | None = None,
        keepalive_s: float = math.inf,
        source: Closable | None = None,
        *,
        sign_of_life: Callable[[], NamedEvent] | None = None,
    ):
        """`sign_of_life` makes an event to be sent in place of a comment."""
        super().__init__(events, headers, keepalive_s, source)
        self.error_event = error_event
        self.sign_of_life = sign_of_life

    def frame(self, item: NamedEvent) -> bytes:
        name, payload = item
        return b"event: %b\ndata: %b\n\n" % (name.encode(), payload)

    def failure(self, error: ApiError, scope: Scope) -> NamedEvent:
        return self.error_event(error, scope)

    def heartbeat(self) -> bytes:
        return self.frame(self.sign_of_life()) if self.sign_of_life else super().heartbeat()


class Wire:
    """The sending end of one response, and when it was last used."""

    def __init__(self, send: Send):
        self.send = send
        self.clock = asyncio.get_running_loop().time
        self.last_sent_s = self.clock()

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        self.last_sent_s = self.clock()

    async def write(self, data: bytes, last: bool = False) -> None:
        try:
            await self.send({"type": "http.response.body", "body": data, "more_body": not last})
        except OSError:  # how some servers say that the client is gone
            raise ClientDisconnect from None
        self.last_sent_s = self.clock()

    async def keep_alive(self, interval_s: float, heartbeat: Callable[[], bytes]) -> None:
        """Writes a heartbeat whenever nothing else was sent for `interval_s`, until cancelled."""
        with contextlib.suppress(ClientDisconnect):  # the writer of events meets it too
            while True:
                wait_s = self.last_sent_s + interval_s - self.clock()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                else:
                    await self.write(heartbeat())


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Runs `work`, cancelling it when the client leaves; its cleanup is over when this returns.

    Call it when the body has been read. `work` has taken its first step before it can be cancelled
    by the client. Raises ClientDisconnect, for which nothing is to be sent.
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
