"""One request from its body to its answer: what every route does, and what each answer carries.

    call = await Call.begin(request, RerankRequest)
    texts = call.body.texts()                        # what the body asks for, or a refusal
    model = await call.runtime.rerank_model(call.body.model, ROUTE)
    charge = call.charge(model)                      # where to add what is used
    ...
    return call.json(ranking)

A client that leaves before its answer has begun cancels all of it (`http/leaving.py`). Knows no
API's shapes.
"""

import logging
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping
from typing import Generic, Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from localinfra.api.generation.usage import Charge
from localinfra.api.http.body import Decoded, read_body
from localinfra.api.http.errors import json_response
from localinfra.api.http.form import read_body_or_form
from localinfra.api.http.pieces import PiecesResponse
from localinfra.api.http.sse import Closable, EventStream, NamedEvent, NamedEventStream
from localinfra.api.http.state import AppState, RequestState
from localinfra.api.http.weight import MAX_VALUES
from localinfra.errors import ApiError
from localinfra.logs import shown
from localinfra.models.entries import ModelEntry

Body = TypeVar("Body", bound=msgspec.Struct, covariant=True)
T = TypeVar("T")

logger = logging.getLogger(__name__)

INLINE_SIZE = 64 * 1024  # of a body: what becomes of it takes 2 ms


class ChargedModel(Protocol):
    """A loaded model of any kind."""

    @property
    def name(self) -> str: ...
    @property
    def entry(self) -> ModelEntry: ...


class Call(Generic[Body]):
    """A request whose body was read. Event loop only."""

    def __init__(self, request: Request, decoded: Decoded[Body]):
        self._app = AppState.of(request.app)
        self._state = RequestState.of(request.scope)
        self._decoded = decoded
        self._own_headers: dict[str, str] = {}
        self._keepalive_s = self._app.runtime.settings.keepalive_s
        self.request = request
        self.body = decoded.value
        self.runtime = self._app.runtime
        self.threads = self._app.threads
        self.caller = self._state.caller
        # Of requests that name none; None: another each time.
        self.default_seed = self.runtime.settings.default_seed

    @classmethod
    async def begin(
        cls, request: Request, kind: type[Body], max_values: int = MAX_VALUES
    ) -> "Call[Body]":
        """Raises what `read_body` does."""
        limits = AppState.of(request.app).limits
        return cls(request, await read_body(request, kind, limits, max_values))

    @classmethod
    async def begin_with_form(
        cls,
        request: Request,
        kind: type[Body],
        files: Collection[str] = (),
        max_values: int = MAX_VALUES,
    ) -> "Call[Body]":
        """The same on routes that take forms too; `files` may be files in one."""
        limits = AppState.of(request.app).limits
        return cls(request, await read_body_or_form(request, kind, limits, files, max_values))

    def store(self, kind: type[T]) -> T:
        """What the route's API keeps for later requests."""
        return self._app.store(kind)

    async def converted(self, work: Callable[[], T], more_bytes: int = 0) -> T:
        """The result of `work`, which goes through what the body holds and `more_bytes` beside it:
        in a thread where that is much. Raises what it does, and QueueFull."""
        size = self._decoded.size + more_bytes
        if size <= INLINE_SIZE:
            return work()
        return await self.threads.conversions.run(work, size=size)

    def log_user(self, user: str | None) -> None:
        if user:
            logger.info("request %s is for user '%s'", self._state.id, shown(user))

    def charge(self, model: ChargedModel) -> Charge:
        """The request's charge. Call it once, as soon as the model is there: from then on the
        request's metrics name the model."""
        app, state = self._app, self._state
        state.model = model.name
        price = model.entry.price
        return Charge(price, model.name, state.caller, state.started_s, app.metrics, app.ledger)

    def leave_out(self, paths: Iterable[str], unknown: Iterable[str] = ()) -> None:
        """The answer will tell that these places in the body had no effect; `unknown`: names that
        nobody knows."""
        self._decoded = self._decoded.ignoring(paths, unknown)

    def add_headers(self, headers: Mapping[str, str]) -> None:
        self._own_headers.update(headers)

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer, however it is sent."""
        return {**self._decoded.headers, **self._own_headers}

    def json(self, value: object) -> Response:
        return json_response(value, headers=self.headers)

    def pieces(self, parts: list[bytes]) -> Response:
        """A JSON body in parts, of which none keeps the event loop waiting."""
        return PiecesResponse(parts, self.headers)

    def stream(
        self, events: AsyncGenerator[bytes | list[bytes], None], source: Closable
    ) -> Response:
        """`source`: what the events are made of, which the stream closes however it ends."""
        return EventStream(events, self.headers, self._keepalive_s, source)

    def named_stream(
        self,
        events: AsyncGenerator[NamedEvent | list[NamedEvent], None],
        source: Closable,
        error_event: Callable[[ApiError, Scope], NamedEvent],
        sign_of_life: Callable[[], NamedEvent],
    ) -> Response:
        return NamedEventStream(
            events, error_event, self.headers, self._keepalive_s, source, sign_of_life=sign_of_life
        )
