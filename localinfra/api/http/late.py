"""A stream whose answer takes long to begin, as with pictures that are encoded for minutes: its
client gets heartbeats meanwhile. Knows no payload's meaning."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Scope

from localinfra.api.http.errors import as_api_error
from localinfra.api.http.sse import Stream, Wire
from localinfra.errors import ApiError


async def begun_in_time(
    making: Coroutine[Any, Any, Response], like: Callable[[], Stream[Any]], limit_s: float
) -> Response:
    """What `making` returns or raises, if that takes no longer than `limit_s`: then an error has
    its status, and the response its headers. Else a stream that begins at once, and goes on with
    the one that is made. `like` makes one without events, whose framing that has."""
    task = asyncio.create_task(making)
    try:
        await asyncio.wait((task,), timeout=limit_s)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait((task,))
        raise
    return task.result() if task.done() else LateStream(task, like())


async def no_events() -> AsyncGenerator[Any, None]:
    nothing: tuple[Any, ...] = ()
    for item in nothing:
        yield item


class LateStream(Stream[Any]):
    def __init__(self, making: "asyncio.Task[Response]", like: Stream[Any]):
        super().__init__(no_events(), dict(like.headers), like.keepalive_s)
        self.source = Making(making)
        self._making = making
        self._like = like
        self.media_type = like.media_type

    async def relay(self, scope: Scope, wire: Wire) -> bytes:
        try:
            made = await asyncio.shield(self._making)
        except ClientDisconnect:
            raise
        except Exception as error:
            return self.frame(self.failure(as_api_error(error, scope), scope))
        assert isinstance(made, Stream)
        self._like = made
        return await made.relay(scope, wire)

    def frame(self, item: Any) -> bytes:
        return self._like.frame(item)

    def failure(self, error: ApiError, scope: Scope) -> Any:
        return self._like.failure(error, scope)

    def heartbeat(self) -> bytes:
        return self._like.heartbeat()


class Making:
    """What is being made, and then the place in a queue of what was made."""

    def __init__(self, task: "asyncio.Task[Response]"):
        self._task = task

    async def aclose(self) -> None:
        task = self._task
        task.cancel()
        await asyncio.wait((task,))
        if task.cancelled() or task.exception() is not None:
            return  # not raised here, where it would get a frame that has the task
        made = task.result()
        if isinstance(made, Stream) and made.source is not None:
            with contextlib.suppress(Exception):
                await made.source.aclose()
