"""What a connection's client is told if the server dies, as its answer goes on.

A request that has got nothing yet: a whole 503. A stream between two chunks: its error event and
its end. All else breaks, as nothing sound can follow it. Event loop only.
"""

import asyncio
import functools
import socket
from typing import cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from localinfra.api.http.errors import broken_off, possible_response
from localinfra.api.http.state import RequestState
from localinfra.api.sockets.refusals import as_bytes
from localinfra.errors import ServerDied
from localinfra.wills import Will, Wills

SLOW_S = 0.1  # after which a GET is no quick one
LAST_CHUNK = b"0\r\n\r\n"  # other data may end so, too: then nothing may follow for a while
HEAD_END = b"\r\n\r\n"
ANY_ID = "#" * 32  # a place for one; ids have no such character


class LastWords:
    """Of one connection. Each of its answers is written through this, in place of the transport."""

    def __init__(self, wills: Wills | None):
        """`wills`: None if nobody outlives the server."""
        self._wills = wills
        self._will: Will | None = None  # since its first request that takes a while
        self._cycle: RequestResponseCycle | None = None  # being answered
        self._is_for_stream = False  # the text that was made last
        self._is_settling = False

    def begin(self, cycle: RequestResponseCycle) -> None:
        """Call when a request is being answered and has arrived whole."""
        if self._wills is None:
            return
        loop = asyncio.get_running_loop()
        if cycle.scope["method"] == "POST":
            # Its id is known then, and a quick answer given.
            loop.call_soon(self._prepare, cycle)
        else:
            loop.call_later(SLOW_S, self._prepare, cycle)

    def end(self) -> None:
        """Call when the connection is lost."""
        will, self._will, self._cycle = self._will, None, None
        if will is not None and self._wills is not None:
            will.revoke()
            shut_down(self._transport)
            self._wills.close(will)

    def _prepare(self, cycle: RequestResponseCycle) -> None:
        if cycle.response_complete or cycle.disconnected or cycle.transport.is_closing():
            return
        if self._will is None:
            self._transport = cycle.transport
            self._will = self._open()
        if self._will is not None:
            self._cycle, self._is_for_stream = cycle, False
            cycle.transport = cast(asyncio.Transport, self)
            self._settle()
            if self._transport.get_write_buffer_size():
                self._settle_soon()  # uvloop sends at the end of its turn

    def _open(self) -> Will | None:
        if self._wills is None or self._transport.get_extra_info("sslcontext") is not None:
            return None  # nobody else can encrypt
        return self._wills.open(descriptor(self._transport))

    # What a cycle calls of its transport

    def write(self, data: bytes) -> None:
        will = self._will
        if will is None:
            self._transport.write(data)
            return
        will.revoke()
        self._transport.write(data)
        if data.endswith(LAST_CHUNK):
            return
        if self._is_for_stream and self._has_sent_all:
            will.renew()
        elif self._cycle is not None and may_be_followed(self._cycle):
            self._settle_soon()

    def close(self) -> None:
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    @property
    def _has_sent_all(self) -> bool:
        """Not if the connection is being closed: an abort drops what is unsent."""
        return not self._transport.is_closing() and not self._transport.get_write_buffer_size()

    def _settle_soon(self) -> None:
        if not self._is_settling:
            self._is_settling = True
            asyncio.get_running_loop().call_soon(self._settle)

    def _settle(self) -> None:
        self._is_settling = False
        cycle, will = self._cycle, self._will
        if cycle is None or will is None or not may_be_followed(cycle) or not self._has_sent_all:
            return
        if not cycle.response_started:
            will.make(answer(cast(Scope, cycle.scope)))
        elif self._is_for_stream:
            will.renew()
        elif event := self._event(cycle):
            will.make(b"%x\r\n%b\r\n%b" % (len(event), event, LAST_CHUNK))
            self._is_for_stream = True

    def _event(self, cycle: RequestResponseCycle) -> bytes | None:
        scope = cast(Scope, cycle.scope)
        return broken_off(RequestState.of(scope).streamed, ServerDied(), scope)


def may_be_followed(cycle: RequestResponseCycle) -> bool:
    """Whether something sound can follow what the cycle has written (100 Continue, or chunks)."""
    is_open = not cycle.response_started or bool(cycle.chunked_encoding)
    return is_open and not cycle.response_complete


def answer(scope: Scope) -> bytes:
    """The whole response that a request gets in place of its own."""
    whole = with_body(scope)
    return whole[: whole.index(HEAD_END) + len(HEAD_END)] if scope["method"] == "HEAD" else whole


def with_body(scope: Scope) -> bytes:
    state = RequestState.of(scope)
    own = tuple((name, "" if value == state.id else value) for name, value in state.headers.items())
    if len(state.id) != len(ANY_ID):
        return answer_with(state.id, scope["path"], own)
    # Takes a tenth of the time.
    return common_answer(scope["path"], own).replace(ANY_ID.encode(), state.id.encode())


@functools.lru_cache(64)
def common_answer(path: str, headers: tuple[tuple[str, str], ...]) -> bytes:
    return answer_with(ANY_ID, path, headers)


def answer_with(id: str, path: str, headers: tuple[tuple[str, str], ...]) -> bytes:
    """`headers`: those without a value get the id."""
    scope: Scope = {"path": path, "state": {}}
    RequestState.of(scope).id = id
    own = {name: value or id for name, value in headers} | {"connection": "close"}
    return as_bytes(possible_response(ServerDied(), scope, own), ())


def descriptor(transport: asyncio.Transport) -> int:
    return int(transport.get_extra_info("socket").fileno())


def shut_down(transport: asyncio.Transport) -> None:
    """Ends the connection, of which another process holds a descriptor: closing one of them would
    not."""
    # Of any family; the loop's own socket can't do it.
    own = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor(transport))
    try:
        own.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the client has ended it
    finally:
        own.detach()
