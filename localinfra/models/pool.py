"""Keeps models in memory: loads each once, on demand, off the event loop; unloads them for others;
drops broken ones.

Does not know what a model is, nor which to load or unload: `swaps.py` decides that.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from functools import partial
from typing import Generic, TypeVar

from localinfra.errors import ModelUnavailable
from localinfra.executor import in_daemon_thread
from localinfra.footprint import less, total
from localinfra.models.budget import too_large
from localinfra.models.failures import Failures, Fault
from localinfra.models.seats import Lease, LoadPlan, Pending, Seat, Seats
from localinfra.models.sharing import Sharing
from localinfra.models.swaps import ResidentState, decide
from localinfra.shares import check_place, current_client

logger = logging.getLogger(__name__)

T = TypeVar("T")

UNLOAD_LIMIT_S = 10.0  # then its memory no longer counts, and its successor may load
CLOSE_LIMIT_S = 8.0  # for all models together
RECHECK_S = 0.25  # while a model is wanted: other programs may free memory, patience may end


class LoadState(StrEnum):
    """absent → loading → loaded | failed; failed → loading once its pause has passed; loaded →
    absent by `unload`, by `drop`, and to make room for another."""

    ABSENT = "not loaded"
    LOADING = "loading"
    LOADED = "loaded"
    FAILED = "failed"


class Pool(Generic[T]):
    """Loaded models by name. Event loop only; `plan`, `load` and `unload` run in threads."""

    def __init__(
        self,
        load: Callable[[str, LoadPlan], T],
        unload: Callable[[T], None],
        fault: Callable[[T], str | None] = lambda _: None,
        is_busy: Callable[[T], bool] = lambda _: False,
        sharing: Sharing[T] | None = None,
    ):
        """`fault`: why a loaded model can't go on; `is_busy`: if it works without a request."""
        self._load = load
        self._unload = unload
        self._fault = fault
        self._is_busy = is_busy
        self._sharing = sharing or Sharing()
        self.seats: Seats[T] = Seats()  # for others to read
        self._pending: dict[str, Pending[T]] = {}  # wanted, and not loading yet
        self._tasks: set[asyncio.Task[None]] = set()  # that make plans
        self._recheck: asyncio.TimerHandle | None = None
        self.failures = Failures()  # for others to forget
        self._faults: dict[str, Fault] = {}
        self._is_closed = False

    def state(self, name: str) -> LoadState:
        if name in self.failures:
            return LoadState.FAILED
        seat = self.seats.named(name)
        if seat is None:
            return LoadState.LOADING if name in self._pending else LoadState.ABSENT
        return LoadState.LOADED if seat.state is ResidentState.LOADED else LoadState.LOADING

    def loaded(self) -> dict[str, T]:
        return {seat.name: model for seat, model in self.seats.ready()}

    def faults(self, served: Collection[str]) -> dict[str, Fault]:
        """Models that broke and are not back yet; forgets those that are not `served` any more."""
        self._faults = {name: fault for name, fault in self._faults.items() if name in served}
        return dict(self._faults)

    async def get(self, name: str) -> T:
        """The model, loaded if it is not in memory; it may be unloaded at any time. Nobody is
        refused. For requests there is `lease`."""
        lease = await self.lease(name)
        lease.release()
        return lease.model

    async def lease(self, name: str, most: int | None = None) -> Lease[T]:
        """The model, loaded if it is not in memory, and kept there until the lease is released.
        Concurrent calls share one load. `most`: requests that may wait for it, and more of clients
        that have less than their share; None: any number, and this one is not counted.

        Raises ModelUnavailable if it can't be loaded, and QueueFull. Whoever holds a lease must not
        wait for another model: its own may be in the way.
        """
        if self._is_closed:
            raise ModelUnavailable("The server is shutting down.")
        self.check()
        self.failures.check(name)
        seat = self.seats.named(name)
        if seat is not None and seat.is_open:
            return self._lease(seat)
        client = None
        if most is not None:
            client, waiting = current_client.get(), self.seats.clients(name)
            if name in self._pending:
                waiting += self._pending[name].clients
            check_place(waiting, client, most)
        pending = seat.pending if seat is not None and seat.is_coming else self._demand(name)
        try:
            return await pending.lease(client)
        except asyncio.CancelledError:
            self.settle()  # if no other request wants the model, it need not be loaded
            raise

    def _lease(self, seat: Seat[T]) -> Lease[T]:
        assert seat.model is not None

        def release() -> None:
            seat.num_leases -= 1
            seat.used_at = time.monotonic()
            if not seat.num_leases and (self._pending or seat.is_leaving):
                self.settle()

        seat.num_leases += 1
        return Lease(seat.model, release)

    async def unload(self, name: str) -> None:
        """Frees a model that is loaded or loading, once its requests have ended; new ones load it
        again. One that is not loading yet is planned anew."""
        if pending := self._pending.get(name):
            self._start_plan(pending)
        await self._leave([seat for seat in self.seats if seat.name == name])

    async def _leave(self, leaving: list[Seat[T]]) -> None:
        for seat in leaving:
            seat.is_leaving = True
        self.settle()
        for seat in leaving:
            await seat.is_gone.wait()

    async def renew(self, name: str) -> bool:
        """Loads a loaded model again beside itself, if there is memory for both. New requests then
        get the new one; the old one leaves after the requests it has. Returns whether it did: not
        if the model is not loaded, or was unloaded meanwhile.

        Raises what the load raises; the model then stays as it is.
        """
        old = self.seats.named(name)
        if self._is_closed or old is None or not old.is_open or self.seats.is_loading(name):
            return False
        pending: Pending[T] = Pending(name)
        pending.plan = await self._plan(name)
        free = less(self._sharing.room(self.seats.held), total(seat.takes for seat in self.seats))
        if self._is_closed or not old.is_open or self.seats.is_loading(name):
            return False
        if not pending.plan.takes.fits(free):
            logger.info("%s stays as it is: there is no memory for two of it", name)
            return False
        new = self._new_seat(pending)
        new.kept_s = old.kept_s
        self._sharing.changed(self.seats.footprints)
        new.task = asyncio.create_task(self._load_into(new))
        await asyncio.shield(new.task)
        is_replaced = old.state is ResidentState.LOADED and not (old.is_leaving or self._is_closed)
        leaving = old if is_replaced or new.num_leases else new
        leaving.is_leaving = True
        self.settle()
        if leaving is new:
            await new.is_gone.wait()
        return is_replaced

    async def unload_idle(self, limits_s: Mapping[str, float | None]) -> None:
        """Frees the models that have been idle for longer than their limit. Call it regularly: it
        is also what notes when a model last worked for itself."""
        for seat, model in list(self.seats.ready()):
            limit_s = seat.idle_limit_s(limits_s.get(seat.name))
            if seat.num_leases or self._is_busy(model):
                seat.used_at = time.monotonic()
            elif limit_s is not None and time.monotonic() - seat.used_at > limit_s:
                await self._leave([seat])

    def check(self) -> None:
        """Drops the models that can't go on."""
        for seat, model in list(self.seats.ready()):
            if reason := self._fault(model):
                self.drop(seat, reason)

    def drop(self, seat: Seat[T], reason: str, *, is_final: bool = False) -> None:
        """Gives up a loaded model. The next request loads it again, unless `is_final`."""
        name = seat.name
        logger.error("giving up on %s: %s", name, reason)
        if self.seats.named(name) is seat:  # else its successor serves already
            self._faults[name] = Fault(reason, time.monotonic())
        self._start_unload(seat)
        if is_final:
            self.failures.add_final(name, f"{name}: {reason}. Restart the server.")

    async def close(self, limit_s: float = CLOSE_LIMIT_S) -> bool:
        """Unloads everything; waits for running loads first, since they can't be stopped.

        Leaves behind what has not ended within the limit. Returns whether everything has.
        """
        self._is_closed = True
        for pending in self._pending.values():
            pending.fail(ModelUnavailable("The server is shutting down."))
        self._pending.clear()
        closing = [asyncio.create_task(self._close(seat), name=seat.name) for seat in self.seats]
        if not closing:
            return True
        _, late = await asyncio.wait(closing, timeout=limit_s)
        for task in late:
            logger.error("%s did not end within %g s and is left behind", task.get_name(), limit_s)
            task.cancel()
        return not late

    async def _close(self, seat: Seat[T]) -> None:
        if seat.state is not ResidentState.LOADED and seat.task:
            await asyncio.wait((seat.task,))
        self._start_unload(seat)
        if seat.task:
            await asyncio.wait((seat.task,))

    # --- from a demand to a loaded model ---

    def _demand(self, name: str) -> Pending[T]:
        pending = self._pending.get(name)
        if pending is None:
            pending = self._pending[name] = Pending(name)
            self._start_plan(pending)
        return pending

    def _start_plan(self, pending: Pending[T]) -> None:
        pending.takes = None
        pending.planning = asyncio.create_task(self._make_plan(pending))
        self._tasks.add(pending.planning)
        pending.planning.add_done_callback(self._tasks.discard)

    async def _plan(self, name: str) -> LoadPlan:
        held = self.seats.held
        return await in_daemon_thread(self._sharing.plan, name, held, name=f"plan {name}")

    async def _make_plan(self, pending: Pending[T]) -> None:
        started, name = time.monotonic(), pending.name
        try:
            plan = await self._plan(name)
        except Exception as error:
            if self._pending.get(name) is pending:
                del self._pending[name]
            self._fail(pending, error, time.monotonic() - started)
            return
        if pending.planning is asyncio.current_task():  # else another plan has been begun
            pending.plan, pending.takes = plan, plan.takes
            self.settle()

    def settle(self) -> None:
        """Does what `swaps.decide` says. Call it after every change."""
        if self._is_closed:
            return
        self._pending = {name: one for name, one in self._pending.items() if one.has_requests}
        room, now = self._sharing.room(self.seats.held), time.monotonic()
        moves = decide(self.seats, self._pending.values(), room, now, self._sharing.patience_s())
        for seat in moves.park:
            self._start_park(seat)
        for seat in moves.unload:
            if not seat.is_leaving:
                logger.info("%s makes room for another model", seat.name)
            self._start_unload(seat)
        for seat in self.seats:
            seat.is_closed = seat in moves.closed
            if seat.is_open and (waiting := self._pending.pop(seat.name, None)):
                # It was closed, which turned out needless.
                waiting.grant(partial(self._lease, seat))
        for pending in moves.refused:
            del self._pending[pending.name]
            error = too_large(pending.name, pending.plan.takes, room)
            self._fail(pending, error, 0.0)
        for pending in moves.load:
            self._start_load(pending)
        for pending in moves.wake:
            self._start_wake(pending)
        self._sharing.changed(self.seats.footprints)
        if self._pending and self._recheck is None:
            self._recheck = asyncio.get_running_loop().call_later(RECHECK_S, self._decide_again)

    def _decide_again(self) -> None:
        self._recheck = None
        self.settle()

    def _start_load(self, pending: Pending[T]) -> None:
        del self._pending[pending.name]
        seat = self._new_seat(pending)
        seat.task = asyncio.create_task(self._load_wanted(seat))

    def _new_seat(self, pending: Pending[T]) -> Seat[T]:
        seat: Seat[T] = Seat(
            name=pending.name,
            takes=pending.plan.takes,
            is_pinned=self._sharing.is_pinned(pending.name),
            pending=pending,
        )
        self.seats.append(seat)
        return seat

    async def _load_wanted(self, seat: Seat[T]) -> None:
        started = time.monotonic()
        try:
            await self._load_into(seat)
        except Exception as error:
            self._fail(seat.pending, error, time.monotonic() - started)
            if seat.is_leaving:  # it was changed meanwhile
                self.failures.forget(seat.name)

    async def _load_into(self, seat: Seat[T]) -> None:
        """Raises what the load raises; the seat is gone then."""
        begun, name, plan = time.monotonic(), seat.name, seat.pending.plan
        try:
            model = await in_daemon_thread(self._load, name, plan, name=f"load {name}")
        except Exception:
            self._forget(seat)
            self.settle()
            raise
        seat.model, seat.takes = model, self._sharing.takes(model)
        seat.measured, seat.parked = seat.takes, self._sharing.parked(model)
        logger.info("loaded %s in %.2f s; it takes %s", name, time.monotonic() - begun, seat.takes)
        if self._faults.pop(name, None):
            logger.info("%s is back", name)
        self._is_ready(seat)

    def _is_ready(self, seat: Seat[T]) -> None:
        seat.state = ResidentState.LOADED
        seat.loaded_at = seat.used_at = time.monotonic()
        seat.pending.grant(partial(self._lease, seat))
        self.settle()

    # --- to main memory and back ---

    def _start_park(self, seat: Seat[T]) -> None:
        seat.state = ResidentState.PARKING
        seat.task = asyncio.create_task(self._move(seat, self._sharing.park))

    def _start_wake(self, pending: Pending[T]) -> None:
        seat = self.seats.named(pending.name)
        assert seat is not None and seat.is_parked
        del self._pending[pending.name]
        seat.state, seat.pending, seat.takes = ResidentState.LOADING, pending, seat.measured
        seat.task = asyncio.create_task(self._move(seat, self._sharing.wake))

    async def _move(self, seat: Seat[T], move: Callable[[T], None]) -> None:
        assert seat.model is not None
        try:
            await in_daemon_thread(move, seat.model, name=f"move {seat.name}")
        except Exception as error:  # it is in pieces
            seat.state = ResidentState.LOADED
            self._fail(seat.pending, error, 0.0)
            self._start_unload(seat)
            return
        seat.is_parked = not seat.is_parked
        if seat.is_parked and seat.parked is not None:
            seat.takes, seat.state = seat.parked, ResidentState.LOADED
            logger.info("%s was moved to main memory to make room for another model", seat.name)
            self.settle()
        else:
            self._is_ready(seat)

    # --- from a loaded model to free memory ---

    def _start_unload(self, seat: Seat[T]) -> None:
        if seat.state is ResidentState.LOADED:
            seat.state = ResidentState.UNLOADING
            seat.task = asyncio.create_task(self._unload_in_thread(seat))

    async def _unload_in_thread(self, seat: Seat[T]) -> None:
        model, seat.model = seat.model, None
        assert model is not None
        freeing = in_daemon_thread(self._unload, model, name=f"unload {seat.name}")
        del model
        unloading = asyncio.create_task(freeing)
        await asyncio.wait((unloading,), timeout=UNLOAD_LIMIT_S)
        self._forget(seat)
        self.settle()
        try:
            await unloading
        except Exception:  # a device error
            logger.exception("%s could not be freed", seat.name)
        else:
            logger.info("unloaded %s", seat.name)

    def _forget(self, seat: Seat[T]) -> None:
        self.seats.remove(seat)
        seat.is_gone.set()

    def _fail(self, pending: Pending[T], error: Exception, load_s: float) -> None:
        """Gives the error to the requests that wait, and remembers it for a while."""
        name = pending.name
        pending.fail(self.failures.add(name, error, load_s, was_loaded=name in self._faults))
