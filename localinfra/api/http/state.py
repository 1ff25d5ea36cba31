"""What handlers find in the application: the runtime and the limits taken from its settings."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from starlette.requests import Request

from localinfra.api.http.body import BodyLimits, Decoded, UnfinishedBodies
from localinfra.executor import BoundedExecutor
from localinfra.runtime import Runtime

T = TypeVar("T")

INLINE_SIZE = 64 * 1024  # of a body: what becomes of it takes 2 ms


def runtime(request: Request) -> Runtime:
    return cast(Runtime, request.app.state.runtime)


def caller_of(request: Request) -> str:
    """What `Guard` calls the holder of the request's key; on an open server all are one."""
    return str(request.scope["state"]["key"])


def default_seed(request: Request) -> int | None:
    """Of requests that name none; None: another each time."""
    return runtime(request).settings.default_seed


def limits(request: Request) -> BodyLimits:
    settings = runtime(request).settings
    unfinished: UnfinishedBodies = request.app.state.unfinished_bodies
    return BodyLimits(settings.max_body_bytes, settings.body_timeout_s, unfinished)


class Threads:
    """For what would keep the event loop waiting: each kind has threads and a queue of its own."""

    def __init__(self) -> None:
        self.conversions = BoundedExecutor("large requests to be read", 2, 64)
        self.vectors = BoundedExecutor("vectors to be written", 2, 256)
        # One of 16 megapixels takes half a second and 200 MB while it is decoded.
        self.pictures_in = BoundedExecutor("pictures to be read", 2, 64)
        # Painted already: more than models let wait.
        self.pictures_out = BoundedExecutor("pictures to be written", 2, 1024)

    def close(self) -> None:
        for executor in (self.conversions, self.vectors, self.pictures_in, self.pictures_out):
            executor.close()


def threads(request: Request) -> Threads:
    return cast(Threads, request.app.state.threads)


def conversions(request: Request) -> BoundedExecutor:
    """The threads in which large bodies become what models read."""
    return threads(request).conversions


async def converted(
    request: Request, decoded: Decoded[Any], work: Callable[[], T], size: int | None = None
) -> T:
    """The result of `work`, which goes through what the body holds, or through `size` bytes: in a
    thread where that is much. Raises what it does, and QueueFull."""
    size = decoded.size if size is None else size
    if size <= INLINE_SIZE:
        return work()
    return await conversions(request).run(work, size=size)
