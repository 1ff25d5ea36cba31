"""The application in a replica, called without a socket."""

import asyncio
from collections.abc import Collection

from starlette.applications import Starlette
from starlette.types import Message

from localinfra.api.http.background import BackgroundAnswers
from localinfra.api.http.running import Running
from localinfra.api.http.state import AppState, RequestState
from localinfra.api.openai.image_files import ImageFiles
from localinfra.api.openai.responses.store import ResponseStore
from localinfra.keys.meter import Permit
from localinfra.scale.forwarded import Batch, Batches, Forwarded, used_message


class HostedApp:
    """Event loop only. The application is one that `is_vouched_for`."""

    def __init__(self, app: Starlette):
        self._app = app
        self._lifespan = app.router.lifespan_context(app)
        self._callers: dict[str, _Caller] = {}  # by ticket

    async def start(self) -> None:
        await self._lifespan.__aenter__()

    async def close(self) -> None:
        await self._lifespan.__aexit__(None, None, None)

    async def answer(self, request: Forwarded) -> Batches:
        """Each batch has what the application has sent since the one before, so that many streams
        cost few of them. Closing, or being cancelled, looks to the application as if the client had
        left; returns once it has cleaned up."""
        scope = request.scope()
        state = RequestState.of(scope)
        state.id, state.caller, state.may_manage = request.id, request.caller, request.may_manage
        state.permit = Permit(models=request.models)
        sent = _Sent(state)
        client = self._callers[request.ticket] = _Caller(request.body)
        work = asyncio.ensure_future(self._app(scope, client.receive, sent.send))
        work.add_done_callback(sent.wake)
        try:
            while batch := await sent.take(work):
                yield batch
            if state.background:  # whose tokens are those of the request
                going_on, _ = state.background
                going_on.add_done_callback(sent.wake)
                while batch := await sent.take(going_on):
                    yield batch
            if not client.gone.is_set():
                work.result()
        finally:
            del self._callers[request.ticket]
            client.gone.set()
            if not work.done():
                work.cancel()
                await asyncio.wait((work,))
            if not work.cancelled():
                work.exception()  # so that none is reported as unread

    def leave(self, ticket: str) -> bool:
        """See `Fleet.leave`."""
        if client := self._callers.get(ticket):
            client.gone.set()
        return client is not None

    def knows(self, caller: str, ids: Collection[str]) -> bool:
        """Responses, their items, images and requests have ids that never meet."""
        state = AppState.of(self._app)
        responses, images = state.store(ResponseStore), state.store(ImageFiles)
        backgrounds, running = state.store(BackgroundAnswers), state.store(Running)
        return any(
            responses.find(id, caller)
            or responses.find_item(id, caller)
            or images.has(id)
            or backgrounds.find(id, caller)
            or any(one.id == id for one in running.of(caller))
            for id in ids
        )


class _Caller:
    """The receiving end: the body is there; then nothing, until the client leaves."""

    def __init__(self, body: bytes):
        self._body: bytes | None = body
        self.gone = asyncio.Event()

    async def receive(self) -> Message:
        if self._body is None:
            await self.gone.wait()
            return {"type": "http.disconnect"}
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _Sent:
    """Messages that the application has sent and nobody has taken yet, and before them what the
    request has used, if that is more than was said: after an answer's last message, nobody may
    listen any more."""

    def __init__(self, state: RequestState) -> None:
        self._state = state
        self._batch: Batch = []
        self._told = used_message(state)
        self._ready = asyncio.Event()

    async def send(self, message: Message) -> None:
        self._batch.append(message)
        self._ready.set()

    def wake(self, work: object) -> None:
        self._ready.set()

    async def take(self, work: "asyncio.Future[None]") -> Batch:
        """Waits for some. Empty at the end of the work."""
        while not self._batch and not work.done():
            self._ready.clear()
            await self._ready.wait()
        batch, self._batch = self._batch, []
        used = used_message(self._state)
        if used != self._told:
            self._told = used
            batch.insert(0, used)
        return batch
