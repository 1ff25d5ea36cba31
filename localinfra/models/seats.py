"""A model's way into memory as values: how it will be loaded, who waits for it, who uses it."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from localinfra.errors import ApiError
from localinfra.footprint import NO_MEMORY, Footprint, total
from localinfra.models.swaps import Demand, Resident, ResidentState

T = TypeVar("T")


class LoadPlan(msgspec.Struct, frozen=True):
    """How a model will be loaded. Loaders that decide more have a subclass."""

    expected: Footprint = NO_MEMORY
    measured: Footprint | None = None  # when it was loaded before
    working: Footprint = NO_MEMORY  # taken besides while it computes

    @property
    def takes(self) -> Footprint:
        return total((self.measured or self.expected, self.working))

    @property
    def shape(self) -> object:
        """What was decided that changes what it takes."""
        return None


class Lease(Generic[T]):
    """A request's hold on a model, which stays in memory until `release`."""

    def __init__(self, model: T, release: Callable[[], None]):
        self.model = model
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """Once is enough; more do no harm."""
        release, self._release = self._release, None
        if release:
            release()


class Pending(Demand, Generic[T]):
    """A model that is wanted or loading, and the requests that wait for it."""

    def __init__(self, name: str):
        super().__init__(name, time.monotonic())
        self.plan = LoadPlan()
        self.planning: asyncio.Task[None] | None = None
        # Each with its client; None: it counts for nobody.
        self.requests: dict[asyncio.Future[Lease[T]], str | None] = {}

    @property
    def has_requests(self) -> bool:
        return any(not request.done() for request in self.requests)

    @property
    def clients(self) -> Counter[str]:
        """Those whose requests wait."""
        waiting = (client for request, client in self.requests.items() if not request.done())
        return Counter(client for client in waiting if client is not None)

    async def lease(self, client: str | None) -> Lease[T]:
        """Waits for the model. Raises what `fail` was given."""
        request: asyncio.Future[Lease[T]] = asyncio.get_running_loop().create_future()
        self.requests[request] = client
        try:
            return await request
        except asyncio.CancelledError:
            if request.done() and not request.cancelled() and not request.exception():
                request.result().release()  # it was granted in the same moment
            raise
        finally:
            del self.requests[request]

    def grant(self, lease: Callable[[], Lease[T]]) -> None:
        """`lease` is called for each request that waits."""
        for request in self.requests:
            if not request.done():
                request.set_result(lease())

    def fail(self, error: ApiError) -> None:
        for request in self.requests:
            if not request.done():
                request.set_exception(error)


@dataclass(eq=False, kw_only=True)
class Seat(Resident, Generic[T]):
    """A model in memory, as the pool sees it."""

    pending: Pending[T]  # the requests that wait while it loads
    model: T | None = None  # once it is loaded
    measured: Footprint = NO_MEMORY  # what it takes where it can compute
    task: asyncio.Task[None] | None = None  # that loads or unloads it
    is_gone: asyncio.Event = field(default_factory=asyncio.Event)
    # Seconds without a request after which it is unloaded, as a client last asked for. None: never;
    # UNSET: none did, and the model's entry says.
    kept_s: float | UnsetType | None = UNSET

    def idle_limit_s(self, usual_s: float | None) -> float | None:
        """The same, given what the entry says."""
        return usual_s if self.kept_s is UNSET else self.kept_s

    def left_s(self, usual_s: float | None) -> float | None:
        """Seconds until then, if no request comes. None: never."""
        limit_s = self.idle_limit_s(usual_s)
        return None if limit_s is None else max(0.0, limit_s - time.monotonic() + self.used_at)


class Seats(list[Seat[T]], Generic[T]):
    """The models in memory, in the order of their arrival."""

    def named(self, name: str) -> Seat[T] | None:
        """The model that is loaded or being loaded; of two, the one that takes requests."""
        same = [seat for seat in self if seat.name == name]
        found = [seat for seat in same if seat.state is not ResidentState.UNLOADING]
        return next((seat for seat in found if seat.is_open), found[-1] if found else None)

    def clients(self, name: str) -> Counter[str]:
        """Those whose requests wait while the model is loaded, or moved back."""
        return sum((seat.pending.clients for seat in self if seat.name == name), Counter())

    def ready(self) -> Iterator[tuple[Seat[T], T]]:
        for seat in self:
            if seat.state is ResidentState.LOADED and seat.model is not None:
                yield seat, seat.model

    def is_loading(self, name: str) -> bool:
        return ResidentState.LOADING in (seat.state for seat in self if seat.name == name)

    @property
    def held(self) -> Footprint:
        """What the loaded models have taken, without what they only take to compute. Not those
        being loaded or unloaded: how much of theirs is taken is not known."""
        return total(
            seat.takes if seat.is_parked else seat.takes - seat.pending.plan.working
            for seat, _ in self.ready()
        )

    @property
    def footprints(self) -> dict[str, Footprint]:
        """What each model takes, those included that are being loaded or unloaded."""
        names = dict.fromkeys(seat.name for seat in self)
        return {name: total(seat.occupies for seat in self if seat.name == name) for name in names}
