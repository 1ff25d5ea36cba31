"""Cancels the work for a client that disconnects before its response begins, or that is cancelled.

After that the response watches for itself (`sse.until_disconnect`), as it may have to clean up.
"""

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localinfra.api.http.running import Running
from localinfra.api.http.state import RequestState
from localinfra.errors import RequestCancelled


class Leaving:
    """ASGI middleware. Cancelling the handler frees its places in queues."""

    def __init__(self, app: ASGIApp, running: Running):
        self.app = app
        self.running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        client = _Client(receive)
        with self.running.entered(scope, client.gone):
            await self.answer(client, scope, send)

    async def answer(self, client: "_Client", scope: Scope, send: Send) -> None:
        has_begun = False

        async def reply(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        work = asyncio.ensure_future(self.app(scope, client.receive, reply))
        leaving = asyncio.create_task(client.gone.wait())
        try:
            await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
            state = RequestState.of(scope)
            if not work.done():
                state.permit.client_left()
            if not work.done() and not has_begun:
                raise RequestCancelled if state.is_cancelled else ClientDisconnect
            await work
        finally:
            leaving.cancel()
            client.close()
            if not work.done():
                work.cancel()
                await asyncio.wait((work,))
            del work  # its error has this frame, and those that hold the request's body


class _Client:
    """The receiving end of a connection, watched once the body has arrived."""

    def __init__(self, receive: Receive):
        self.gone = asyncio.Event()
        self._receive = receive
        self._watch: asyncio.Task[None] | None = None
        self._has_body = False

    async def receive(self) -> Message:
        if self._has_body:
            await self.gone.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._has_body = True
            self._watch = asyncio.create_task(self._until_gone())
        return message

    def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None  # its end refers to this by a traceback

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone.set()
