"""Decides which models to load, and which to unload for them, within the memory there is.

Pure: the pool (`pool.py`) tells what is loaded and who waits, and does what is decided. It asks
again after every change, so nothing is remembered here.

- A request for a loaded model is served at once, whatever else is loaded or unloaded.
- A model that is wanted takes free memory, else that of idle models, least recently used first.
  Those that can be moved to main memory and back are moved before any is unloaded.
- A busy model is only closed to new requests, and unloaded once those it has are done; and that
  only after the swap has waited for `patience_s` and the model has been there as long.
- First come, first served: memory that a model waits for is kept for it. One that can't have it yet
  is overtaken for `patience_s`, then no other is loaded on the devices that it waits for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from localinfra.footprint import Footprint, Room, larger, less, more, total


class ResidentState(StrEnum):
    """loading → loaded → unloading; none of them is kept after that, or after a failed load.
    loaded → parking → loaded, with `is_parked`; → loading → loaded, without it."""

    LOADING = "loading"
    LOADED = "loaded"
    PARKING = "being moved to main memory"
    UNLOADING = "unloading"


@dataclass(eq=False)
class Resident:
    """A model that takes memory. Times are those of one clock, in seconds."""

    name: str
    takes: Footprint
    state: ResidentState = ResidentState.LOADING
    is_pinned: bool = False  # never unloaded for another model
    num_leases: int = 0  # requests that use it
    loaded_at: float = 0.0
    used_at: float = 0.0  # when the last request ended
    is_leaving: bool = False  # takes no new requests, and is unloaded after those it has
    is_closed: bool = False  # the same, as long as another model needs its memory
    # What it takes once it is moved to main memory, where it can't compute; None: it can't be.
    parked: Footprint | None = None
    is_parked: bool = False  # it has been moved: `takes` is `parked`

    @property
    def is_open(self) -> bool:
        is_here = self.state is ResidentState.LOADED and not self.is_parked
        return is_here and not self.is_leaving and not self.is_closed

    @property
    def is_coming(self) -> bool:
        """Whether it will be open without anything more being decided."""
        return self.state is ResidentState.LOADING and not self.is_leaving

    @property
    def is_going(self) -> bool:
        """Whether its memory will be free without anything more being decided."""
        states = ResidentState.UNLOADING, ResidentState.PARKING
        return self.state in states or self.is_leaving

    @property
    def occupies(self) -> Footprint:
        """What nobody else may have: while it is moved, what it takes here and there."""
        if self.state is ResidentState.PARKING and self.parked is not None:
            return larger(self.takes, self.parked)
        return self.takes

    @property
    def can_park(self) -> bool:
        return self.parked is not None and not self.is_parked and not self.is_leaving

    def gives(self, may_park: bool) -> Footprint:
        """What is free once it has gone, or has been moved if it can and may be."""
        moves = self.state is ResidentState.PARKING or (may_park and self.can_park)
        return self.takes - self.parked if moves and self.parked is not None else self.takes

    @property
    def is_drained(self) -> bool:
        return self.state is ResidentState.LOADED and not self.num_leases


@dataclass(eq=False)
class Demand:
    """A model that requests wait for."""

    name: str
    since: float
    takes: Footprint | None = None  # None: not known yet


R = TypeVar("R", bound=Resident)
D = TypeVar("D", bound=Demand)


@dataclass
class Moves(Generic[R, D]):
    load: list[D] = field(default_factory=list)
    wake: list[D] = field(default_factory=list)  # parked ones, to be moved back
    park: list[R] = field(default_factory=list)
    unload: list[R] = field(default_factory=list)
    closed: list[R] = field(default_factory=list)  # to new requests; all others are open
    refused: list[D] = field(default_factory=list)  # do not fit even alone


def decide(
    residents: Sequence[R],
    demands: Iterable[D],
    room: Room,
    now: float,
    patience_s: float,
) -> Moves[R, D]:
    """`room` is for all models together, those that are loaded included."""
    moves: Moves[R, D] = Moves()
    is_settled = all(found.state is ResidentState.LOADED for found in residents)
    candidates = in_order_of_leaving(residents)
    free = less(room, total(found.takes for found in residents))
    if is_settled and (excess := those_in_excess(candidates, free)):
        return Moves(unload=excess, closed=[found for found in residents if found.is_closed])
    moves.unload = [found for found in residents if found.is_leaving and found.is_drained]
    usable = less(room, total(found.takes for found in residents if found.is_pinned))
    names = {found.name for found in residents}
    parked = {found.name: found for found in candidates if found.is_parked and not found.is_going}
    contested: set[str] = set()  # devices that an overdue model waits for
    for demand in sorted(demands, key=lambda demand: demand.since):
        own = parked.get(demand.name)
        # Its predecessor of the same name, if any, must be gone first, or be woken.
        if demand.takes is None or (demand.name in names and own not in candidates):
            continue
        if not demand.takes.fits(usable):
            if is_settled:  # else memory may be free in a moment that seems taken by others now
                moves.refused.append(demand)
            continue
        if contested & demand.takes.bytes_on.keys():
            continue
        available = more(free, own.takes) if own else free
        others = [found for found in candidates if found is not own]
        may_go = [found for found in others if gives_way(found, demand, now, patience_s)]
        choice = those_that_make_room(demand.takes, available, may_go)
        if choice is None:
            if now - demand.since >= patience_s:
                contested |= demand.takes.short(available)
            continue
        leaving, may_park = choice
        if not leaving:
            (moves.wake if own else moves.load).append(demand)
        for found in leaving:
            if not found.is_going:
                leaves = moves.park if may_park and found.can_park else moves.unload
                (leaves if found.is_drained else moves.closed).append(found)
            available = more(available, found.gives(may_park))
        candidates = [found for found in others if found not in leaving]
        free = less(available, demand.takes)
    return moves


def in_order_of_leaving(residents: Sequence[R]) -> list[R]:
    """Those that go anyway, then idle ones, then busy ones, each least recently used first."""
    found = [
        one
        for one in residents
        if one.is_going or (one.state is ResidentState.LOADED and not one.is_pinned)
    ]
    return sorted(
        found,
        key=lambda one: (not one.is_going, not one.is_closed, one.num_leases > 0, one.used_at),
    )


def gives_way(resident: Resident, demand: Demand, now: float, patience_s: float) -> bool:
    if resident.is_going or resident.is_closed or resident.is_drained:
        return True
    return now - max(demand.since, resident.loaded_at) >= patience_s


def those_in_excess(candidates: Sequence[R], free: Room) -> list[R]:
    """Idle residents to unload because more is taken than there is: a model was measured at more
    than expected, or other programs have taken memory."""
    chosen: list[R] = []
    for resident in candidates:
        over = {device for device, size in free.items() if size < 0}
        if resident.is_drained and (resident.is_leaving or over & resident.takes.bytes_on.keys()):
            chosen.append(resident)
        if resident.is_going or resident in chosen:
            free = more(free, resident.takes)
    return chosen if any(not resident.is_leaving for resident in chosen) else []


def those_that_make_room(
    takes: Footprint, free: Room, may_go: Sequence[R]
) -> tuple[list[R], bool] | None:
    """Residents to unload so that `takes` fits; None if it doesn't even then. True: those that can
    be moved to main memory only are."""
    for may_park in (True, False):
        # Those first that can be moved; `sorted` keeps the order otherwise.
        order = sorted(may_go, key=lambda one: not (one.is_going or one.is_closed or one.can_park))
        chosen = shortest(takes, free, order if may_park else may_go, may_park)
        if chosen is not None:
            return chosen, may_park
    return None


def shortest(takes: Footprint, free: Room, may_go: Sequence[R], may_park: bool) -> list[R] | None:
    """The first of these that make room, without those among them that are not needed."""
    chosen: list[R] = []
    room = dict(free)
    for resident in may_go:
        short = takes.short(room)
        if not short:
            break
        gives = resident.gives(may_park)
        if any(gives.bytes_on.get(device, 0) > 0 for device in short):
            chosen.append(resident)
            room = more(room, gives)
    is_overdrawn = any(size < 0 <= free[device] for device, size in room.items())
    if takes.short(room) or is_overdrawn:
        return None
    for resident in reversed(chosen[:-1]):  # a later, larger one may have made it needless
        without = less(room, resident.gives(may_park))
        if takes.fits(without):
            chosen.remove(resident)
            room = without
    return chosen
