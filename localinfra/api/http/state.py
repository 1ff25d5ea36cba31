"""State beside a request: `AppState`, shared by all requests, and `RequestState`, of one.

Only this file knows where starlette keeps them.
"""

import asyncio
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.types import Scope

from localinfra.api.exposition import Exposition
from localinfra.api.http.bodies import BodyLimits, HeldBodies, HeldBody, UnfinishedBodies
from localinfra.api.http.weight import WIDEST
from localinfra.config.settings import ServerSettings
from localinfra.costs import Ledger
from localinfra.errors import ApiError
from localinfra.executor import BoundedExecutor, DaemonThreads
from localinfra.keys.meter import Permit
from localinfra.leases import Leases
from localinfra.metrics import Metrics
from localinfra.runtime import Runtime

T = TypeVar("T")

NAME = "localinfra"


class Threads:
    """For work that would block the event loop: each kind has its own threads and queue."""

    def __init__(self) -> None:
        self.conversions = BoundedExecutor("body decoding", 2, 64)
        self.vectors = BoundedExecutor("vector encoding", 2, 256)
        # Decoding one of 16 megapixels takes half a second and 200 MB.
        self.pictures_in = BoundedExecutor("image decoding", 2, 64)
        # These images are generated already, so more may wait than for the models.
        self.pictures_out = BoundedExecutor("image encoding", 2, 1024)
        self.files = DaemonThreads("a look at models' files", 4, 256)

    def close(self) -> None:
        for executor in (self.conversions, self.vectors, self.pictures_in, self.pictures_out):
            executor.close()


class AppState:
    """Shared by all requests of one application. Event loop only."""

    def __init__(self, runtime: Runtime, ledger: Ledger, *stores: object):
        """`stores`: data that single APIs keep across requests."""
        self.runtime = runtime
        self.ledger = ledger
        self.metrics = Metrics()
        self.exposition = Exposition(self.metrics)
        self.threads = Threads()
        self._unfinished, self._held = UnfinishedBodies(0), HeldBodies(0)
        self._stores = stores
        runtime.follow(self.apply)

    def apply(self, settings: ServerSettings) -> None:
        max_bytes = settings.max_body_bytes
        self._unfinished.max_bytes = max(settings.max_unfinished_bytes, max_bytes)
        self._held.max_bytes = max(settings.max_held_bytes, WIDEST * max_bytes)
        self.limits = BodyLimits(max_bytes, settings.body_timeout_s, self._unfinished, self._held)

    def store(self, kind: type[T]) -> T:
        """The store of this class."""
        return next(store for store in self._stores if isinstance(store, kind))

    def attach(self, app: Starlette) -> None:
        setattr(app.state, NAME, self)

    @staticmethod
    def of(app: Starlette) -> "AppState":
        found = getattr(app.state, NAME)
        assert isinstance(found, AppState)
        return found


class UsedSoFar(msgspec.Struct):
    """What a request has used so far."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    images: int = 0
    first_token_s: float = 0.0  # after its arrival, once there is one


class RequestState(msgspec.Struct, eq=False):
    """Facts about one request: set by the middleware and the handler, read by metrics and log. No
    two are equal."""

    id: str = ""  # `x-request-id`
    started_s: float = 0.0  # of time.perf_counter()
    caller: str = ""  # the key's holder: see `Holder.label`
    may_manage: bool = True  # the holder may manage models
    permit: Permit = msgspec.field(default_factory=Permit)  # within the key's limits
    body: HeldBody | None = None  # what a large one takes, once it has arrived
    model: str = ""  # the model that is charged, once it is loaded
    error: ApiError | None = None  # why it was refused, or failed even after its response began
    leases: Leases | None = None  # on the models that it uses
    progress: UsedSoFar = msgspec.field(default_factory=UsedSoFar)
    is_encoding: bool = False  # its pictures and sounds are being encoded
    is_cancelled: bool = False  # by DELETE /v1/requests/{id}
    # Its work is done in the background, where it counts as the request: by this task, with a state
    # of its own.
    background: "tuple[asyncio.Task[None], RequestState] | None" = None
    target_host: str | None = None  # the host in an absolute request URL
    headers: Mapping[str, str] = {}  # that any response gets
    # Done once all that it has used is counted, even if that outlasts the request.
    settled: "asyncio.Future[None] | None" = None
    streamed: str = ""  # the media type of the stream that has begun

    @property
    def goes_on(self) -> bool:
        return self.background is not None

    @property
    def models(self) -> Leases:
        """The models for this request."""
        assert self.leases is not None, "set before any handler runs"
        return self.leases

    @staticmethod
    def of(scope: Scope) -> "RequestState":
        """The request's state, created on first use."""
        states = scope.setdefault("state", {})
        found: RequestState | None = states.get(NAME)
        if found is None:
            found = states[NAME] = RequestState()
        return found

    @staticmethod
    def detached(scope: Scope) -> Scope:
        """A scope for work that goes on when the request has ended: the same request and caller,
        nothing done yet. It takes over the body."""
        state = RequestState.of(scope)
        own = RequestState(
            id=state.id,
            started_s=state.started_s,
            caller=state.caller,
            may_manage=state.may_manage,
            permit=state.permit.again(),
            body=state.body,
        )
        state.body = None
        return {**scope, "state": {**scope["state"], NAME: own}}
