"""What handlers and middleware find beside a request: `AppState`, which all requests share, and
`RequestState`, what is known of one.

The one file that knows where starlette keeps them.
"""

from typing import TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.types import Scope

from localinfra.api.http.body import BodyLimits, UnfinishedBodies
from localinfra.costs import Ledger
from localinfra.errors import ApiError
from localinfra.executor import BoundedExecutor
from localinfra.metrics import Metrics
from localinfra.runtime import Runtime

T = TypeVar("T")

NAME = "localinfra"


class Threads:
    """For what would keep the event loop waiting: each kind has threads and a queue of its own."""

    def __init__(self) -> None:
        self.conversions = BoundedExecutor("large requests to be read", 2, 64)
        self.vectors = BoundedExecutor("vectors to be written", 2, 256)
        # One of 16 megapixels takes half a second and 200 MB while it is decoded.
        self.pictures_in = BoundedExecutor("pictures to be read", 2, 64)
        # Painted already: more than models let wait.
        self.pictures_out = BoundedExecutor("pictures to be written", 2, 1024)

    def close(self) -> None:
        for executor in (self.conversions, self.vectors, self.pictures_in, self.pictures_out):
            executor.close()


class AppState:
    """What the requests of one application share. Event loop only."""

    def __init__(self, runtime: Runtime, ledger: Ledger, *stores: object):
        """`stores`: what single APIs keep for later requests."""
        settings = runtime.settings
        self.runtime = runtime
        self.ledger = ledger
        self.metrics = Metrics()
        self.threads = Threads()
        self.limits = BodyLimits(
            settings.max_body_bytes,
            settings.body_timeout_s,
            UnfinishedBodies(max(settings.max_unfinished_bytes, settings.max_body_bytes)),
        )
        self._stores = stores

    def store(self, kind: type[T]) -> T:
        """The one of this class."""
        return next(store for store in self._stores if isinstance(store, kind))

    def attach(self, app: Starlette) -> None:
        setattr(app.state, NAME, self)

    @staticmethod
    def of(app: Starlette) -> "AppState":
        found = getattr(app.state, NAME)
        assert isinstance(found, AppState)
        return found


class RequestState(msgspec.Struct):
    """What is known of one request beside its scope: written by the middleware and its handler,
    told by the metrics and its line of the log."""

    id: str = ""  # `x-request-id`
    started_s: float = 0.0  # of time.perf_counter()
    caller: str = ""  # what `Guard` calls the key's holder; on an open server all are one
    model: str = ""  # that it is charged for, once that is there
    error: ApiError | None = None  # why it was refused, or failed after its answer had begun
    target_host: str | None = None  # of an absolute URL

    @staticmethod
    def of(scope: Scope) -> "RequestState":
        """Made when first asked for."""
        states = scope.setdefault("state", {})
        found: RequestState | None = states.get(NAME)
        if found is None:
            found = states[NAME] = RequestState()
        return found
