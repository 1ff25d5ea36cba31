"""Which replica gets a request: the one that has its prefix cached, unless that has far more to do
than others; else the one with the least to do.

Event loop only. What it knows of caches is where it sent earlier requests.
"""

import contextlib
import hashlib
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping

from localinfra.scale.prefixes import PromptStart

MOST_BORDERS = 50_000  # known, of all conversations: about 15 MB
MOST_HOLDERS = 4  # remembered of each
# A conversation stays until its replica has this many requests more than twice the least. Reading
# a prompt of 1,000 tokens anew takes a replica as long as some 30 steps of all that it runs.
SLACK = 4


class ReplicaChoice:
    """Of the replicas of one group."""

    def __init__(self, most_borders: int = MOST_BORDERS):
        self._most_borders = most_borders
        self._holders: OrderedDict[bytes, tuple[str, ...]] = OrderedDict()  # the latest first
        self._running: Counter[str] = Counter()
        self._num_chosen = 0

    @contextlib.contextmanager
    def running(self, replica: str, prefix: PromptStart) -> Iterator[None]:
        """Within, a request runs there; from then on its prefix is cached there."""
        self._remember(replica, prefix)
        self._running[replica] += 1
        try:
            yield
        finally:
            self._running[replica] -= 1
            if not self._running[replica]:
                del self._running[replica]

    def choose(
        self, prefix: PromptStart, reported: Mapping[str, int], avoided: Collection[str] = ()
    ) -> str | None:
        """One of the replicas `reported`, with the requests that each said it has. None without
        any. `avoided`: those that have just failed at it."""
        loads = {
            name: max(number, self._running[name])
            for name, number in reported.items()
            if name not in avoided
        }
        if not loads:
            return None
        least = min(loads.values())
        depth, holders = self._deepest(prefix, loads)
        if depth >= prefix.own_from:
            best = min(holders, key=loads.__getitem__)
            if loads[best] <= 2 * least + SLACK:
                return best
        self._num_chosen += 1
        origin = prefix.origin or b"%d" % self._num_chosen  # or all would meet on one replica
        return max(
            (name for name, load in loads.items() if load == least),
            key=lambda name: (name in holders, _weight(origin, name)),
        )

    def _deepest(self, prefix: PromptStart, known: Collection[str]) -> tuple[int, list[str]]:
        """How many borders the best replicas have cached, and which these are."""
        for depth in range(len(prefix.borders), 0, -1):
            held_by = self._holders.get(prefix.borders[depth - 1], ())
            if holders := [name for name in held_by if name in known]:
                return depth, holders
        return 0, []

    def _remember(self, replica: str, prefix: PromptStart) -> None:
        for border in prefix.borders:
            others = (name for name in self._holders.get(border, ()) if name != replica)
            self._holders[border] = (replica, *others)[:MOST_HOLDERS]
            self._holders.move_to_end(border)
        while len(self._holders) > self._most_borders:
            self._holders.popitem(last=False)


def _weight(origin: bytes, name: str) -> bytes:
    """The highest one wins (rendezvous hashing): gateways that know nothing of each other choose
    the same replica for a conversation, and another replica more moves few of them."""
    return hashlib.blake2b(origin + name.encode(), digest_size=8).digest()
