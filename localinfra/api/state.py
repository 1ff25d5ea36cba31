"""What handlers find in the application: the runtime and the limits taken from its settings."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from starlette.requests import Request

from localinfra.api.body import BodyLimits, Decoded, UnfinishedBodies
from localinfra.executor import BoundedExecutor
from localinfra.runtime import Runtime

T = TypeVar("T")

INLINE_SIZE = 64 * 1024  # of a body: what becomes of it takes 2 ms


def runtime(request: Request) -> Runtime:
    return cast(Runtime, request.app.state.runtime)


def caller_of(request: Request) -> str:
    """What `Guard` calls the holder of the request's key; on an open server all are one."""
    return str(request.scope["state"]["key"])


def limits(request: Request) -> BodyLimits:
    settings = runtime(request).settings
    unfinished: UnfinishedBodies = request.app.state.unfinished_bodies
    return BodyLimits(settings.max_body_bytes, settings.body_timeout_s, unfinished)


def conversions(request: Request) -> BoundedExecutor:
    """The threads in which large bodies become what models read."""
    return cast(BoundedExecutor, request.app.state.conversions)


async def converted(request: Request, decoded: Decoded[Any], work: Callable[[], T]) -> T:
    """The result of `work`, which goes through what the body holds: in a thread where that is
    much. Raises what it does, and QueueFull."""
    if decoded.size <= INLINE_SIZE:
        return work()
    return await conversions(request).run(work, size=decoded.size)
