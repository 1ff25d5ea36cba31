"""One HTTP/1.1 connection, with limits on head size, pace and buffered bytes.

Parsing is left to uvicorn's llhttp protocol. This file limits what a client may send and how long
it may take, before any ASGI call, and refuses with the usual error body. Knows no route.
"""

import asyncio
import logging
import re
from typing import Any, cast

import httptools
from starlette.types import Scope
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from localinfra.api.http.request_log import log_refusal
from localinfra.api.http.state import RequestState
from localinfra.api.sockets import refusals
from localinfra.api.sockets.connections import Connections
from localinfra.api.sockets.last_words import LastWords
from localinfra.api.sockets.refusals import MAX_HEADERS, MAX_PIPELINED, MAX_URL_BYTES
from localinfra.chance import random_hex
from localinfra.config.settings import ServerSettings
from localinfra.errors import ApiError, UpgradeRequired
from localinfra.logs import about
from localinfra.wills import Wills

log = logging.getLogger(__name__)

LINGER_S = 2.0  # for the client to read a refusal: closing at once could discard it
LINGER_BYTES = 4 << 20  # read and dropped meanwhile
MAX_BLANK_BYTES = 1024  # line ends before a request
# Reading this much counts as progress; a byte now and then does not.
PROGRESS_BYTES = 16 * 1024
# A chunk costs about 1 µs, whatever its size.
FREE_CHUNKS = 10_000
MIN_CHUNK_BYTES = 64  # on average, beyond those
CHUNK_FRAMING_BYTES = 16  # a chunk's size in hex and two line ends

# The request target of clients that use the server as a proxy.
ABSOLUTE_FORM = re.compile(rb"[a-z][a-z0-9+.-]*://([^/?#]*)", re.IGNORECASE)


class Refused(Exception):
    """Raised in callbacks to stop the parser, which wraps it in an error of its own."""


class Connection(HttpToolsProtocol):
    """A client's socket from accept to close. `Connections` tracks its state and calls `check`."""

    def __init__(
        self,
        connections: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        wills: Wills | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.url = b""
        self.registry = connections
        self._last_words = LastWords(wills)
        self.running: RequestResponseCycle | None = None  # being answered
        self._refusal: ApiError | None = None
        self._refusal_answer = b""  # sent once earlier requests are answered
        self._drops_input = False  # whether data received is read and dropped
        self._dropped_bytes = 0
        self._blank_bytes = 0
        self._is_first_read = True
        self._is_resuming = False
        self._offers_upgrade = False
        self._closes_at_s: float | None = None
        # The head being read
        self._num_heads = 0
        self._head_began_s: float | None = None
        self._head_bytes = 0  # of whole reads
        self._head_is_split = False  # into several reads
        self._read_bytes = 0
        # The body being read
        self._in_body = False
        self._body_bytes = 0
        self._framed_bytes = 0  # including chunk sizes and trailers
        self._num_chunks = 0
        self._num_trailers = 0
        # Waiting and writing
        self._waits_since_s = 0.0
        self._unsent_bytes = 0
        self._taken_bytes = 0
        self._progress_s = 0.0

    @property
    def settings(self) -> ServerSettings:
        """Those of the last reload."""
        return self.registry.settings

    @property
    def is_busy(self) -> bool:
        return self.running is not None and not self.running.response_complete

    @property
    def unread_bytes(self) -> int:
        """Bytes of the response still in the transport or its handler."""
        later_bytes = self.running.expected_content_length if self.running else 0
        return self.transport.get_write_buffer_size() + later_bytes

    @property
    def address(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def request_id(self) -> str:
        """Of the request that is being answered."""
        return RequestState.of(cast(Scope, self.running.scope)).id if self.running else ""

    # From the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waits_since_s = self._progress_s = self.loop.time()
        if refusal := self.registry.open(self):
            self.refuse(refusal)

    def connection_lost(self, exc: Exception | None) -> None:
        self.registry.forget(self)
        if self.running is not None:  # uvicorn notifies only the newest request, which may wait
            self.running.disconnected = True
            self.running.message_event.set()
        super().connection_lost(exc)
        self._last_words.end()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.registry.hold(self, self.unread_bytes)

    def resume_writing(self) -> None:
        self._progress_s = self.loop.time()  # the client has read nearly all since `pause_writing`
        self.registry.read(self)
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._drops_input:
            self._dropped_bytes += len(data)
            if self._dropped_bytes > LINGER_BYTES:
                self.drop()
            return
        was_in_head, was_in_body = self._head_began_s is not None, self._in_body
        num_heads, self._read_bytes = self._num_heads, len(data)
        try:
            self.feed(data)
        except httptools.HttpParserError as error:
            self.refuse(self._refusal or refusals.malformed(data, error, self._is_first_read))
            return
        self._is_first_read = False
        self._head_is_split = self._head_began_s is not None
        if num_heads != self._num_heads:
            return
        # An endless header or trailer never reaches a callback, so its bytes are counted here.
        if was_in_head and self._head_began_s is not None:
            self._head_bytes += len(data)
            if self._head_bytes > self.settings.max_header_bytes:
                self.refuse(self.head_too_large())
        elif was_in_body and self._in_body:
            self._framed_bytes += len(data)
            framing_bytes = self._framed_bytes - self._body_bytes
            allowed = self.settings.max_header_bytes + CHUNK_FRAMING_BYTES * self._num_chunks
            if framing_bytes > allowed:
                self.refuse(refusals.odd_chunks())
        elif not was_in_head and not was_in_body:
            self._blank_bytes += len(data)
            if self._blank_bytes > MAX_BLANK_BYTES and self._head_began_s is None:
                self.refuse(refusals.no_request())

    def feed(self, data: bytes) -> None:
        """Raises HttpParserError."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.resume(data[upgrade.args[0] :])

    def resume(self, rest: bytes) -> None:
        """Parses the body of a request that offers an upgrade, as Java's HTTP client does (HTTP/2).
        The offer may be ignored and the body is HTTP/1.1 anyway (RFC 9110, 7.8), but the parser
        stops before it: a new parser gets the framing headers and reads on."""
        self._offers_upgrade = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        framing = [
            b"%b: %b\r\n" % (name, value)
            for name, value in self.headers
            if name in (b"content-length", b"transfer-encoding")
        ]
        self._is_resuming = True
        try:
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing))
        finally:
            self._is_resuming = False
        if rest:
            self.feed(rest)

    # From the parser, in whole heads, headers and chunks: one read bounds their size.

    def on_message_begin(self) -> None:
        if self._is_resuming:
            return
        self._head_began_s = self.loop.time()
        self._head_bytes, self._head_is_split = 0, False
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._is_resuming:
            return
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self.stop(refusals.url_too_long())

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_began_s is None:
            self.skip_trailer(name, value)
            return
        name, headers = name.lower(), self.headers
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        elif name == b"transfer-encoding" and (refusal := refusals.foreign_coding(value)):
            self.stop(refusal)
        headers.append((name, value))  # as in uvicorn's method; calling that would cost 3 %
        if len(headers) > MAX_HEADERS:
            self.stop(self.head_too_large())

    def skip_trailer(self, name: bytes, value: bytes) -> None:
        if not self._is_resuming:
            self._num_trailers += 1
            if self._num_trailers > MAX_HEADERS:
                self.stop(self.head_too_large())

    def on_headers_complete(self) -> None:
        if self._is_resuming:
            return
        if self._head_is_split or self._read_bytes > self.settings.max_header_bytes:
            size = sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self.settings.max_header_bytes:
                self.stop(self.head_too_large())
        if self.parser.should_upgrade():
            self.check_upgrade()
        if len(self.pipeline) >= MAX_PIPELINED:
            self.stop(refusals.too_many_at_once())
        self._num_heads += 1
        self._blank_bytes = 0
        self._head_began_s = None
        self._in_body = True
        self._body_bytes = self._framed_bytes = self._num_chunks = self._num_trailers = 0
        if absolute := ABSOLUTE_FORM.match(self.url):
            scope = cast(Scope, self.scope)  # uvicorn types it as a TypedDict
            RequestState.of(scope).target_host = absolute[1].decode("latin-1")
            rest = self.url[absolute.end() :]
            self.url = rest if rest.startswith(b"/") else b"/" + rest
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        self._num_chunks += 1
        if self._num_chunks > FREE_CHUNKS + self._body_bytes // MIN_CHUNK_BYTES:
            self.stop(refusals.odd_chunks())

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self.cycle.response_complete and self._body_bytes > self.settings.max_body_bytes:
            self.drop()  # it was refused as too large, and the client keeps sending
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._offers_upgrade:
            return  # the body is still to come: see `resume`
        self._in_body = False
        self.registry.received(self)
        super().on_message_complete()
        if self.running is self.cycle:
            self._last_words.begin(self.cycle)

    def check_upgrade(self) -> None:
        if self.parser.get_method() == b"CONNECT":
            self.stop(refusals.no_proxy())
        if self._get_upgrade() == b"websocket":
            self.stop(UpgradeRequired())
        self._offers_upgrade = True

    def stop(self, refusal: ApiError) -> None:
        self._refusal = refusal
        raise Refused

    # Requests and answers

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self.running = cycle
        self.registry.begin(self)
        super()._start_asgi_task(cycle, app)
        if not cycle.more_body:
            self._last_words.begin(cycle)

    def on_response_complete(self) -> None:
        """Replaces uvicorn's, whose timer for idle connections is stopped by any byte."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal_answer:
            self.leave()
        else:
            self._waits_since_s = self.loop.time()
            self.registry.wait(self)

    # Refusals

    def refuse(self, error: ApiError) -> None:
        """Stops reading, answers the complete requests received before, sends this error, and
        closes. If the refused request's response has begun, finishes that instead."""
        if self._drops_input:
            return  # for another reason
        self._drops_input = True
        scope: Scope = {"path": self.url.partition(b"?")[0].decode("latin-1"), "state": {}}
        RequestState.of(scope).id = random_hex(32)
        log_refusal(error, scope, self.client)
        if self.pipeline and self.pipeline[0][0].more_body:
            self.pipeline.popleft()  # the newest, which is incomplete and refused
        self._refusal_answer = refusals.answer(error, scope, self.server_state.default_headers)
        running = self.running
        if running is not None and not running.response_complete:
            if not running.more_body:
                return  # `on_response_complete` answers the others one by one
            if running.response_started:
                running.keep_alive = False
                return
            running.disconnected = True  # cancels its work
            running.message_event.set()
        self.leave()

    def leave(self) -> None:
        """Sends the refusal and gives the client a moment to read it."""
        self.transport.write(self._refusal_answer)
        self._closes_at_s = self.loop.time() + LINGER_S
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.registry.leave(self)

    def head_too_large(self) -> ApiError:
        return refusals.head_too_large(self.settings.max_header_bytes)

    def drop(self) -> None:
        self._drops_input = True
        self.transport.abort()

    # Time. Called about once a second.

    def check(self, now_s: float) -> None:
        if self.reads_nothing(now_s):
            log.warning(
                "%s did not read its answer for %g s: connection closed",
                self.address,
                self.settings.write_timeout_s,
                extra=about(self.request_id),
            )
            self.drop()
        elif self._closes_at_s is not None:
            if now_s >= self._closes_at_s:
                self.drop()
        elif self.transport.is_closing():
            if not self._unsent_bytes:  # a TLS client owes its end, which means nothing in HTTP
                self.drop()
        elif self._head_began_s is not None and not self._drops_input:
            timeout_s = self.settings.head_timeout_s
            if now_s - self._head_began_s > timeout_s:
                self.refuse(refusals.head_too_slow(timeout_s))
        elif not self.is_busy:
            # Still in a body: the response was sent before all of the body arrived.
            is_new = self._num_heads == 0 or self._in_body
            limit_s = self.settings.head_timeout_s if is_new else self.settings.idle_timeout_s
            if now_s - self._waits_since_s > limit_s:
                self.transport.close()

    def reads_nothing(self, now_s: float) -> bool:
        """Whether the client has not read its response for too long."""
        unsent_bytes = self.transport.get_write_buffer_size()
        self._taken_bytes += max(0, self._unsent_bytes - unsent_bytes)
        if not unsent_bytes or self._taken_bytes >= PROGRESS_BYTES:
            self._progress_s, self._taken_bytes = now_s, 0
            if self.flow.write_paused:
                self.registry.hold(self, self.unread_bytes)
        self._unsent_bytes = unsent_bytes
        return now_s - self._progress_s > self.settings.write_timeout_s
