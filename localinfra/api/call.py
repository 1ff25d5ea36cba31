"""One request from body to response: the steps and headers that all routes share.

    call = await Call.begin(request, RerankRequest)
    texts = call.body.texts()                        # raises if the body is invalid
    model = await call.models.rerank(call.body.model, ROUTE)
    charge = call.charge(model)                      # add usage to it
    ...
    return call.json(ranking)

All of it is cancelled if the client disconnects before the response starts (`http/leaving.py`).
Knows no API's shapes.
"""

import contextlib
import logging
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from localinfra.api.generation.params import Defaults
from localinfra.api.generation.usage import Charge, expected_tokens
from localinfra.api.http.background import BackgroundAnswer, BackgroundAnswers
from localinfra.api.http.body import Decoded, read_body
from localinfra.api.http.errors import json_response
from localinfra.api.http.form import read_body_or_form
from localinfra.api.http.late import begun_in_time, no_events
from localinfra.api.http.lines import LineStream
from localinfra.api.http.pieces import PiecesResponse
from localinfra.api.http.sse import (
    Closable,
    EventStream,
    NamedEvent,
    NamedEventStream,
    Stream,
)
from localinfra.api.http.state import AppState, RequestState
from localinfra.api.http.weight import MAX_NESTED, MAX_VALUES
from localinfra.errors import ApiError
from localinfra.leases import Leases
from localinfra.logs import about, shown
from localinfra.models.entries import ModelEntry

Body = TypeVar("Body", bound=msgspec.Struct, covariant=True)
T = TypeVar("T")

logger = logging.getLogger(__name__)

INLINE_SIZE = 64 * 1024  # of a body, which takes 2 ms to convert


class ChargedModel(Protocol):
    """A loaded model of any kind."""

    @property
    def name(self) -> str: ...
    @property
    def entry(self) -> ModelEntry: ...


class Call(Generic[Body]):
    """A request whose body has been read. Event loop only."""

    def __init__(self, request: Request, decoded: Decoded[Body]):
        self._app = AppState.of(request.app)
        self._state = RequestState.of(request.scope)
        self._decoded = decoded
        self._own_headers: dict[str, str] = {}
        self._keepalive_s = self._app.runtime.settings.keepalive_s
        self.request = request
        self.body = decoded.value
        expected = expected_tokens(decoded.size, decoded.value, decoded.num_data)
        self._state.permit.expected_tokens = expected
        self.runtime = self._app.runtime
        self.threads = self._app.threads
        self.id = self._state.id  # `x-request-id`
        self.caller = self._state.caller
        self.started_s = self._state.started_s  # on time.perf_counter()
        # For requests that set no seed; None: a new one for each.
        self.default_seed = self.runtime.settings.default_seed

    @classmethod
    async def begin(
        cls,
        request: Request,
        kind: type[Body],
        max_values: int = MAX_VALUES,
        *,
        max_nested: int = MAX_NESTED,
        has_type: bool = True,
    ) -> "Call[Body]":
        """Takes and raises the same as `read_body`."""
        limits = AppState.of(request.app).limits
        decoded = await read_body(
            request, kind, limits, max_values, max_nested=max_nested, has_type=has_type
        )
        return cls(request, decoded)

    @classmethod
    async def begin_with_form(
        cls,
        request: Request,
        kind: type[Body],
        files: Collection[str] = (),
        max_values: int = MAX_VALUES,
    ) -> "Call[Body]":
        """The same, for routes that also take forms; `files` names the fields that may be files."""
        limits = AppState.of(request.app).limits
        return cls(request, await read_body_or_form(request, kind, limits, files, max_values))

    @property
    def models(self) -> Leases:
        """The models for this request."""
        return self._state.models

    def store(self, kind: type[T]) -> T:
        """The API's store, kept across requests."""
        return self._app.store(kind)

    async def convert(self, work: Callable[[], T], more_bytes: int = 0) -> T:
        """Runs `work`, which processes the body and `more_bytes` of other data: in a thread if
        that is much. Raises QueueFull, and whatever `work` raises."""
        size = self._decoded.size + more_bytes
        if size <= INLINE_SIZE:
            return work()
        return await self.threads.conversions.run(work, size=size)

    def defaults(self, name: str) -> Defaults:
        """Those of a text model, before it is loaded. Without any of its own if there is no such
        model, which is an error elsewhere."""
        return Defaults(self.default_seed, self.models.catalog.sampling(name))

    @contextlib.contextmanager
    def encoding(self) -> Iterator[None]:
        """The request's pictures and sounds are encoded meanwhile."""
        self._state.is_encoding = True
        try:
            yield
        finally:
            self._state.is_encoding = False

    def log_user(self, user: str | None) -> None:
        if user:
            said = {"user": user}
            logger.info(
                "the request is for user '%s'", shown(user), extra=about(self._state.id, said=said)
            )

    def charge(self, model: ChargedModel) -> Charge:
        """The request's charge. Call it once, as soon as the model is loaded: from then on the
        request counts under that model in the metrics."""
        app, state = self._app, self._state
        state.model = model.name
        price = model.entry.price
        return Charge(
            price,
            model.name,
            state.caller,
            self.started_s,
            app.metrics,
            app.ledger,
            state.progress,
        )

    def report_ignored(self, paths: Iterable[str], unknown: Iterable[str] = ()) -> None:
        """Reports these parts of the body as without effect, in a header of the response;
        `unknown`: paths of unknown names."""
        self._decoded = self._decoded.ignoring(paths, unknown)

    def add_headers(self, headers: Mapping[str, str]) -> None:
        self._own_headers.update(headers)

    @property
    def headers(self) -> dict[str, str]:
        """The response's headers, however it is sent."""
        return {**self._decoded.headers, **self._own_headers}

    def json(self, value: object) -> Response:
        return json_response(value, headers=self.headers)

    def pieces(self, parts: list[bytes]) -> Response:
        """A JSON body in parts, each too small to block the event loop."""
        return PiecesResponse(parts, self.headers)

    def stream(
        self, events: AsyncGenerator[bytes | list[bytes], None], source: Closable | None
    ) -> EventStream:
        """`source`: what `events` reads from; the stream closes it in any case."""
        return EventStream(events, self.headers, self._keepalive_s, source)

    def named_stream(
        self,
        events: AsyncGenerator[NamedEvent | list[NamedEvent], None],
        source: Closable | None,
        error_event: Callable[[ApiError, Scope], NamedEvent],
        heartbeat_event: Callable[[], NamedEvent] | None,
    ) -> NamedEventStream:
        return NamedEventStream(
            events,
            error_event,
            self.headers,
            self._keepalive_s,
            source,
            heartbeat_event=heartbeat_event,
        )

    async def begun_in_time(
        self,
        making: Coroutine[Any, Any, Response],
        like: "Callable[[], Stream[Any]] | None" = None,
    ) -> Response:
        """See `late.begun_in_time`: heartbeats begin when they would in a stream that has begun.
        Without `like`, it is one of `stream`."""
        like = like or (lambda: self.stream(no_events(), None))
        return await begun_in_time(making, like, self._keepalive_s)

    async def in_background(
        self, id: str, answer: "Callable[[Call[Body]], Awaitable[Response]]"
    ) -> BackgroundAnswer:
        """Has the call answered by a stream that goes on if the client leaves. Returns once that
        has begun; raises what `answer` raises, InvalidRequest and QueueFull. `id`: for those who
        look for it."""
        background = self._app.store(BackgroundAnswers).start(
            id, self.request.scope, lambda request: answer(Call(request, self._decoded))
        )
        await background.begun()
        return background

    def lines(
        self,
        lines: AsyncGenerator[bytes | list[bytes], None],
        source: Closable,
        heartbeat_line: Callable[[], bytes],
    ) -> Response:
        return LineStream(
            lines, self.headers, self._keepalive_s, source, heartbeat_line=heartbeat_line
        )
