"""A TLS connection from accept to the end of its handshake, after which `Connection` has it.

The event loop's own TLS layer makes no call before a handshake has ended: silent clients would be
bounded by nothing. So an `Arrival` takes the socket first, and counts as a connection.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, cast

from uvicorn.protocols.utils import get_remote_addr

from localinfra.api.sockets import refusals
from localinfra.api.sockets.connection import Connection
from localinfra.api.sockets.connections import Connections
from localinfra.logs import shown

log = logging.getLogger(__name__)

HANDSHAKE = b"\x16"  # the type of a TLS connection's first record (RFC 8446, 5.1)
# `Connection.check` ends what does not close; the loop's own limit would cut off slow readers of an
# answer after which the connection closes.
NO_LIMIT_S = 86_400.0
PIECE_BYTES = 64 * 1024
DISTRUST = ("UNKNOWN_CA", "CERTIFICATE_UNKNOWN", "BAD_CERTIFICATE", "CERTIFICATE_EXPIRED")


class Arrival(asyncio.Protocol):
    """A client that has connected. In `Connections` it is new, or leaving if it will be refused."""

    def __init__(
        self,
        registry: Connections,
        open_arrivals: set[Any],
        context: ssl.SSLContext,
        connection: Callable[[], Connection],
    ) -> None:
        """`open_arrivals`: of all connections that a shutdown ends."""
        self._registry = registry
        self._open = open_arrivals
        self._context = context
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._shaking: asyncio.Task[None] | None = None
        self._early = bytearray()  # received after the handshake, before `Connection` has it
        self._is_gone = False
        self.address = ""
        self.request_id = ""

    # From the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        client = get_remote_addr(self._transport)
        self.address = client[0] if client else ""
        self._open.add(self)
        if self._registry.open(self):  # once it can read, it is told why
            self._registry.leave(self)

    def data_received(self, data: bytes) -> None:
        if self._shaking is not None:
            self._early += data
        elif data.startswith(HANDSHAKE):
            self._transport.pause_reading()
            self._shaking = self._loop.create_task(self._shake_hands(data))
        else:
            self._hand_over(self._transport).refuse(refusals.only_tls())

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()

    # The handshake

    async def _shake_hands(self, hello: bytes) -> None:
        limit_s = self._registry.settings.head_timeout_s
        try:
            secured = await self._loop.start_tls(
                self._transport,
                self,
                Begun.of(self._context, hello),
                server_side=True,
                ssl_handshake_timeout=limit_s,
                ssl_shutdown_timeout=NO_LIMIT_S,
            )
        except OSError as error:
            if isinstance(error, ssl.SSLError):
                log.info("%s: the TLS handshake failed: %s", self.address, reason(error))
            self._forget()
            return
        if secured is None or self._is_gone:
            self._forget()
            return
        connection = self._hand_over(Secured(self._transport, secured))
        if self._early:
            connection.data_received(bytes(self._early))

    def _hand_over(self, transport: asyncio.Transport) -> Connection:
        self._forget()
        connection = self._connection()
        transport.set_protocol(connection)
        connection.connection_made(transport)
        return connection

    def _forget(self) -> None:
        self._is_gone = True
        self._open.discard(self)
        self._registry.forget(self)

    # From `Connections` and the server

    def drop(self) -> None:
        self._forget()
        if self._shaking is not None:
            self._shaking.cancel()
        self._transport.abort()

    def shutdown(self) -> None:
        self.drop()

    def check(self, now_s: float) -> None:
        if now_s - self._began_s > self._registry.settings.head_timeout_s:
            self.drop()


def reason(error: ssl.SSLError) -> str:
    code = error.reason or ""
    if code.endswith(DISTRUST):
        return f"the client does not trust this server's certificate ({code.lower()})"
    return shown(code.lower().replace("_", " ") or str(error))


class Begun(ssl.SSLContext):
    """Stands for a context in a handshake of which the first bytes have been read already.

    Used again and again, as one takes 0.5 ms to make: the loop calls `wrap_bio` once, and soon.
    """

    _spare: ClassVar[list["Begun"]] = []
    _actual: ssl.SSLContext
    _hello: bytes

    @classmethod
    def of(cls, context: ssl.SSLContext, hello: bytes) -> "Begun":
        found = cls._spare.pop() if cls._spare else cls(ssl.PROTOCOL_TLS_SERVER)
        found._actual, found._hello = context, hello
        return found

    def wrap_bio(self, incoming: ssl.MemoryBIO, *others: Any, **named: Any) -> ssl.SSLObject:
        incoming.write(self._hello)
        actual, self._hello = self._actual, b""
        self._spare.append(self)
        return actual.wrap_bio(incoming, *others, **named)


class Secured(asyncio.Transport):
    """A TLS transport that also knows the TCP transport below it, with what is unsent there."""

    def __init__(self, below: asyncio.Transport, secured: asyncio.Transport) -> None:
        super().__init__()
        self._below = below
        self._secured = secured
        self._unwritten_bytes = 0  # of the data that is being written
        secured.set_write_buffer_limits(high=PIECE_BYTES)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """In pieces: a large one would pass all layers at once, and none would say that its client
        is slow to read it."""
        if len(data) <= PIECE_BYTES:
            self._secured.write(data)
            return
        self._unwritten_bytes = len(data)
        for start in range(0, len(data), PIECE_BYTES):
            piece = memoryview(data)[start : start + PIECE_BYTES]
            self._unwritten_bytes -= len(piece)
            self._secured.write(piece)

    def get_write_buffer_size(self) -> int:
        sizes = (one.get_write_buffer_size() for one in (self._secured, self._below))
        return self._unwritten_bytes + sum(sizes)

    def close(self) -> None:
        """Sends what is unsent, and the end. Idle clients would keep it waiting for theirs, which
        means nothing in HTTP."""
        self._secured.close()
        if not self._secured.get_write_buffer_size():
            self._below.close()

    def abort(self) -> None:
        self._below.abort()

    def is_closing(self) -> bool:
        return self._secured.is_closing() or self._below.is_closing()

    def can_write_eof(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._secured.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._secured.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._secured.get_protocol()

    def is_reading(self) -> bool:
        return self._secured.is_reading()

    def pause_reading(self) -> None:
        self._secured.pause_reading()

    def resume_reading(self) -> None:
        self._secured.resume_reading()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))
