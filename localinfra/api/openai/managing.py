"""POST /v1/models/pull and /v1/models/reload, DELETE /v1/models/{id}: the catalogue changed by
request.

Only those may call who may manage models (`http/managing.py`).
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.call import Call
from localinfra.api.http.errors import json_response
from localinfra.api.http.managing import check_may_manage
from localinfra.api.http.state import AppState, RequestState
from localinfra.errors import ConfigError, InvalidRequest
from localinfra.executor import in_daemon_thread
from localinfra.leases import Leases
from localinfra.models.fetch import references
from localinfra.models.fetch.progress import PullProgress
from localinfra.models.fetch.removal import plan_removal, remove
from localinfra.models.sources import RemoteSource
from localinfra.runtime import Runtime

if TYPE_CHECKING:
    from localinfra.models.fetch.plan import Plan


MAX_REFERENCE = 4096  # characters; signed URLs are long


class PullRequest(msgspec.Struct, frozen=True):
    model: Annotated[str, Meta(max_length=MAX_REFERENCE)]  # what `localinfra pull` takes
    stream: bool = False


class PullEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a pull is. The last one has the status "done" and the names that answer now."""

    status: str  # planning, fetching, waiting (for another process), verifying, done
    file: str | None = None
    done_bytes: int | None = None
    total_bytes: int | None = None
    rate: float | None = None  # bytes per second
    left_s: float | None = None
    ids: tuple[str, ...] = ()


class Deleted(msgspec.Struct, frozen=True):
    id: str
    deleted: bool
    size_bytes: int  # that are free now
    object: str = "model"


async def pull_model(request: Request) -> Response:
    """Fetches a model.

    A stream tells how far it is. A client that leaves stops it, and what came is kept for the next
    pull."""
    check_may_manage(request)
    call = await Call.begin(request, PullRequest)
    sources = references.parse(call.body.model, call.models.catalog)
    pull = Pull(call.runtime, call.models, sources)
    if call.body.stream:
        return call.stream(encoded(pull), pull)
    return call.json(await pull.whole())


class Pull:
    """Fetches sources one after the other in a thread. Event loop only."""

    def __init__(self, runtime: Runtime, models: Leases, sources: list[RemoteSource]):
        """`models`: those of the request, which is told no other names."""
        self._runtime = runtime
        self._models = models
        self._sources = sources
        self._stop = threading.Event()
        self._shown: asyncio.Queue[PullProgress | None] = asyncio.Queue()

    async def aclose(self) -> None:
        self._stop.set()

    async def whole(self) -> PullEvent:
        """The last event. Raises the same as `events`."""
        async with contextlib.aclosing(self), contextlib.aclosing(self.events()) as events:
            async for event in events:
                last = event
        return last

    async def events(self) -> AsyncGenerator[PullEvent, None]:
        """Raises what `pull.plan` and `pull.fetch` raise."""
        ids = []
        for source in self._sources:
            yield PullEvent("planning")
            plan = await in_daemon_thread(self._plan, source, name="plan a pull")
            fetching = asyncio.create_task(self._fetch(plan))
            # Once the client has left, nobody waits for its PullStopped.
            fetching.add_done_callback(lambda task: task.cancelled() or task.exception())
            while (progress := await self._shown.get()) is not None:
                yield event_of(progress)
            path = await fetching
            await self._runtime.refresh(is_urgent=True)
            catalog = self._runtime.catalog
            if name := await in_daemon_thread(catalog.name_at, path, name="find the name"):
                self._runtime.forgive(name)
                if name in self._models.catalog.entries:
                    ids.append(name)
        yield PullEvent("done", ids=tuple(ids))

    def _plan(self, source: RemoteSource) -> "Plan":
        from localinfra.models.fetch import pull  # and httpx2, which a start need not wait for

        plan = pull.plan(source, self._stop)
        pull.check_room(plan)
        return plan

    async def _fetch(self, plan: "Plan") -> Path:
        from localinfra.models.fetch import pull

        loop = asyncio.get_running_loop()

        def show(progress: PullProgress) -> None:
            loop.call_soon_threadsafe(self._shown.put_nowait, progress)

        try:
            return await in_daemon_thread(pull.fetch, plan, show, self._stop, name="pull")
        finally:
            self._shown.put_nowait(None)


def event_of(progress: PullProgress) -> PullEvent:
    return PullEvent(
        progress.stage,
        file=progress.file,
        done_bytes=progress.done_bytes,
        total_bytes=progress.total_bytes,
        rate=progress.rate,
        left_s=progress.left_s,
    )


async def encoded(pull: Pull) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(pull.events()) as events:
        async for event in events:
            yield msgspec.json.encode(event)


async def delete_model(request: Request) -> Response:
    """Deletes the files of a pulled model, once the requests that use it have ended."""
    check_may_manage(request)
    runtime, models = AppState.of(request.app).runtime, RequestState.of(request.scope).models
    return json_response(await delete_files(runtime, models, request.path_params["id"]))


async def delete_files(runtime: Runtime, models: Leases, id: str) -> Deleted:
    """Deletes the files of a pulled model, once the requests that use it have ended. Raises
    ModelNotFound, and InvalidRequest for files that can't be deleted."""
    await models.seek(id)
    name, entry = models.catalog.find(id)
    try:
        planned = await in_daemon_thread(plan_removal, name, entry.source, name="plan a removal")
        await runtime.unload(name)
        await in_daemon_thread(remove, planned, name="remove a model")
    except OSError as error:
        raise InvalidRequest(f"{error.filename}: {error.strerror or error}", "model") from None
    await runtime.refresh(is_urgent=True)
    return Deleted(name, True, planned.size_bytes)


async def reload_models(request: Request) -> Response:
    """Reads models.toml again, and answers with what has changed.

    A wrong file is a 400 and changes nothing."""
    check_may_manage(request)
    models = RequestState.of(request.scope).models
    before = models.catalog.entries
    try:
        changes = await AppState.of(request.app).runtime.reload()
    except ConfigError as error:
        raise InvalidRequest(f"The settings stay as they were: {error}") from None
    return json_response(changes.only(before.keys() | models.catalog.entries.keys()))
