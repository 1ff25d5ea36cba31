"""How the places of a queue, and the room of a store, are shared among clients."""

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable
from contextvars import ContextVar
from typing import Generic, TypeVar

from localinfra.errors import QueueFull

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# The holder of the key of the request that this task works for; set where the key is checked.
current_client: ContextVar[str] = ContextVar("current_client", default="")


def has_room(waiting: Counter[str], client: str, most: int) -> bool:
    """Whether fewer than `most` requests wait, or the client has fewer than its share: one that
    fills the queue keeps no other out. `waiting`: the number of each client's."""
    share = most / len({other for other in waiting if waiting[other]} | {client})
    return waiting.total() < most or waiting[client] < share


def check_place(waiting: Counter[str], client: str, most: int) -> None:
    """Raises QueueFull if this client may not have another request wait for a model."""
    if not has_room(waiting, client, most):
        raise QueueFull(
            f"{fullness(waiting, client)}, and a key's share is full: try again later, or raise "
            "max_queue in models.toml.",
            retry_after_s=5,
        )


class TurnNumbers:
    """Numbers for waiting jobs: in their order clients take turns, however many one of them sends.
    A client's first job comes after those that were begun, not after all that wait (start-time
    fair queueing)."""

    def __init__(self) -> None:
        self._now = 0  # the number of what was begun last
        self._last: dict[str, int] = {}  # number of each client with jobs beyond that

    def number(self, client: str) -> int:
        """Of the client's next job; those of several clients may be the same."""
        found = self._last[client] = max(self._now, self._last.get(client, 0)) + 1
        return found

    def begin(self, client: str, number: int) -> None:
        """Call it for each job with a number when it begins."""
        self._now = max(self._now, number)
        if self._last.get(client, 0) <= self._now:
            self._last.pop(client, None)

    def give_up(self, client: str, others: Iterable[int]) -> None:
        """Call it for each that won't begin: it costs the client no turn. `others`: the numbers of
        its jobs that still wait."""
        last = max(others, default=0)
        if last > self._now:
            self._last[client] = last
        else:
            self._last.pop(client, None)


class Holdings:
    """What each client has in a store of limited size. Beyond the limit, something of the greediest
    is dropped, or clients with more than their share are refused: so nobody pushes out what others
    have, or keeps others out."""

    def __init__(self) -> None:
        self._sizes: Counter[str] = Counter()
        self.total = 0

    def add(self, client: str, size: int) -> None:
        """`size`: below zero for what is dropped."""
        self.total += size
        self._sizes[client] += size
        if not self._sizes[client]:
            del self._sizes[client]

    def has_room(self, client: str, size: int, most: int) -> bool:
        """Whether the client may add so much: all together then have no more than `most`, or the
        client no more than its share. Where there is nothing, all fits."""
        others = len(self._sizes) - (client in self._sizes)
        has_share = self._sizes[client] + size <= most / (others + 1)
        return not self.total or self.total + size <= most or has_share

    @property
    def greediest(self) -> str:
        """The client that has most. There must be one."""
        return max(self._sizes, key=self._sizes.__getitem__)


class Kept(Generic[K, V]):
    """A cache of what each client has used last. Beyond its limits, the greediest client's oldest
    is dropped: nobody pushes out what others have, and one alone has all the room. What came last
    stays in any case, until something else comes.

    For one thread, or under a lock.
    """

    def __init__(self, *most: int):
        """The limits of all sizes together: one for each size of a value, such as its bytes."""
        self._most = most
        self._held = tuple(Holdings() for _ in most)
        self._kept: dict[str, OrderedDict[K, tuple[V, tuple[int, ...]]]] = {}  # by client

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def items(self) -> list[tuple[str, K, V]]:
        """All, with whose each is."""
        return [
            (client, key, value)
            for client, own in self._kept.items()
            for key, (value, _) in own.items()
        ]

    def get(self, client: str, key: K) -> V | None:
        """The client's own, which counts as used."""
        own = self._kept.get(client)
        if own is None or key not in own:
            return None
        own.move_to_end(key)
        return own[key][0]

    def put(self, client: str, key: K, value: V, *sizes: int) -> None:
        self.drop(client, key)
        own = self._kept.setdefault(client, OrderedDict())
        own[key] = value, sizes
        self._add(client, sizes)
        for most, held in zip(self._most, self._held, strict=True):
            while held.total > most and (held.greediest != client or len(own) > 1):
                self.drop(held.greediest, next(iter(self._kept[held.greediest])))

    def resize(self, client: str, key: K, *sizes: int) -> None:
        """For a value that has grown. What is too much then is dropped at the next `put`."""
        own = self._kept[client]
        value, before = own[key]
        own[key] = value, sizes
        self._add(client, [after - size for after, size in zip(sizes, before, strict=True)])

    def drop(self, client: str, key: K) -> None:
        """If it is there."""
        own = self._kept.get(client, OrderedDict())
        if found := own.pop(key, None):
            self._add(client, [-size for size in found[1]])
            if not own:
                del self._kept[client]

    def clear(self) -> None:
        for client, key, _ in self.items():
            self.drop(client, key)

    def _add(self, client: str, sizes: Iterable[int]) -> None:
        for held, size in zip(self._held, sizes, strict=True):
            held.add(client, size)


def fullness(waiting: Counter[str], client: str) -> str:
    """Whose queue is full, in words for that client, who learns nothing else of others."""
    total, own = waiting.total(), waiting[client]
    if own == total:
        return f"{total} requests are waiting for this model already, all with this API key"
    return f"{total} requests are waiting for this model already, {own} of them with this API key"
