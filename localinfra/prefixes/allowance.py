"""How much main memory prefixes outside of KV caches take: what the models leave of the budget.

Those of unloaded models leave first. Decides sizes; who holds prefixes decides which ones stay.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable
from weakref import WeakSet

from localinfra.footprint import MIB
from localinfra.prefixes.shelves import Shelves

# Left free for what each engine offloads until the next look at it, a second later; but not more
# than half of what there is.
GROWTH_BYTES = 64 * MIB


@runtime_checkable
class PrefixHolder(Protocol):
    """An engine that offloads prefixes."""

    @property
    def offloaded_bytes(self) -> int:
        """What they take now."""

    @property
    def most_offloaded_bytes(self) -> int:
        """What its settings let them take."""

    @property
    def max_offloaded_bytes(self) -> int:
        """What it was last told to keep within."""

    def limit_offloaded(self, max_bytes: int) -> None: ...


class Share(NamedTuple):
    """Of one holder, in bytes."""

    used: int
    most: int  # it may use
    limit: int  # so far


class Allowance:
    """Event loop only, except `num_bytes`."""

    def __init__(self, shelves: Shelves):
        self._shelves = shelves
        # Until they are freed, not only unloaded. Replaced, not changed: plans are made in threads.
        self._holders: WeakSet[PrefixHolder] = WeakSet()

    @property
    def num_bytes(self) -> int:
        """What all prefixes outside of KV caches take. Any thread."""
        running = sum(holder.offloaded_bytes for holder in self._holders)
        return running + sum(self._shelves.num_bytes.values())

    def fit(self, room: int, engines: Iterable[object], names: Collection[str]) -> None:
        """Keeps all prefixes within `room` bytes, from the engines' next steps on. `engines` are
        those of the loaded models; `names` has these models, and those that are being loaded and
        will want their prefixes next."""
        new = (engine for engine in engines if isinstance(engine, PrefixHolder))
        self._holders = WeakSet((*self._holders, *new))
        holders = list(self._holders)
        shares = [
            Share(one.offloaded_bytes, one.most_offloaded_bytes, one.max_offloaded_bytes)
            for one in holders
        ]
        kept = sum(self._shelves.num_bytes.values())
        kept, limits = divided(room, kept, shares)
        self._shelves.fit(kept, names)
        for holder, limit in zip(holders, limits, strict=True):
            if limit != holder.max_offloaded_bytes:
                holder.limit_offloaded(limit)


def divided(room: int, kept: int, shares: Sequence[Share]) -> tuple[int, list[int]]:
    """What prefixes of unloaded models, which take `kept` bytes, may take, and the limit of each
    holder: together at most `room`. A limit that does is not changed, so that an engine with
    nothing to do is left alone."""
    room = max(0, room)
    used = sum(share.used for share in shares)
    growth = sum(min(GROWTH_BYTES, max(0, share.most - share.used)) for share in shares)
    kept = max(0, min(kept, room - used - min(growth, (room - used) // 2)))
    spare = room - kept - used
    if spare < 0:
        return kept, [room * share.used // used for share in shares]
    limits = [min(share.most, share.used + spare // len(shares)) for share in shares]
    return kept, [
        share.limit if share.used + GROWTH_BYTES // 2 <= share.limit <= limit else limit
        for share, limit in zip(shares, limits, strict=True)
    ]
