"""One client's answer on its way from a replica, and what it has used."""

import asyncio
import contextlib
from collections.abc import Mapping

from starlette.types import Message, Scope, Send

from localinfra.api.http.errors import broken_off
from localinfra.api.http.state import RequestState
from localinfra.errors import ModelUnavailable
from localinfra.scale.forwarded import USED, Batches, is_last


class RelayedAnswer:
    """Event loop only."""

    def __init__(self, scope: Scope, send: Send):
        self._scope = scope
        self.state = RequestState.of(scope)
        self._send = send
        self._type = b""
        self.has_begun = False
        self.has_ended = False
        self.is_left = False  # nobody listens
        self.goes_on = False  # its work does, in the background
        self._detached = asyncio.Event()  # nothing but its usage will come

    def leave(self) -> None:
        self.is_left = True
        self._look()

    def _look(self) -> None:
        if self.goes_on and (self.has_ended or self.is_left):
            self._detached.set()

    async def over(self, relay: "asyncio.Task[None]") -> None:
        """Returns once nothing more will be passed on."""
        detached = asyncio.create_task(self._detached.wait())
        try:
            await asyncio.wait((relay, detached), return_when=asyncio.FIRST_COMPLETED)
        finally:
            detached.cancel()

    async def relay(self, batches: Batches) -> None:
        """Raises ReplicaLost."""
        async with contextlib.aclosing(batches):
            async for batch in batches:
                for message in batch:
                    await self.pass_on(message)

    async def pass_on(self, message: Message) -> None:
        if message["type"] == USED:
            used = self.state.progress
            used.prompt_tokens, used.generated_tokens = message["prompt"], message["generated"]
            self.goes_on = message["goes_on"]
            self._look()
            return
        if self.is_left:
            return
        if message["type"] == "http.response.start":
            headers: Mapping[bytes, bytes] = dict(message["headers"])
            self._type = headers.get(b"content-type", b"").partition(b";")[0]
        self.has_begun = True
        self.has_ended = is_last(message)
        await self._send(message)
        self._look()

    async def break_off(self) -> None:
        """Ends a stream with an error event. Raises ModelUnavailable for what is no stream: the
        connection is then closed, so that nobody takes the part for the whole."""
        error = died()
        last = broken_off(self._type.decode("latin-1"), error, self._scope)
        if last is None:
            raise error
        self.has_ended = True
        await self._send({"type": "http.response.body", "body": last, "more_body": False})


def died() -> ModelUnavailable:
    return ModelUnavailable(
        "The process that worked at this request has died, and another one takes its place: send "
        "the request again."
    )
