"""Fair order: clients take turns for slots and prompt time, and so do the requests of one client,
however many choices and prompts each has. Pure: it orders sequences and starts none.

Of clients with equal shares of the slots, the one served longest ago comes first.
"""

from collections import Counter
from collections.abc import Iterable

from localinfra.engine.sequence import Sequence

# After this many steps without progress a prompt goes before all shorter ones, so that it gets at
# least 1 / PATIENCE of the prompt time.
PATIENCE = 8
TOGETHER = 4  # steps within which requests are admitted that came together


class Turns:
    """Counts turns as sequences arrive and start. Engine thread only."""

    def __init__(self) -> None:
        self._now = 0
        self._last: dict[str, int] = {}  # by client: turn in which a sequence last started

    def arrived(self, sequence: Sequence) -> None:
        self._now += 1
        sequence.arrived_at = self._now
        sequence.group.turn = sequence.group.turn or self._now
        self._last.setdefault(sequence.group.client, 0)

    def started(self, sequence: Sequence) -> None:
        self._now += 1
        sequence.group.turn = self._last[sequence.group.client] = self._now
        sequence.group.num_started += sequence.num_reused is None  # for the first time

    def order(self, waiting: Iterable[Sequence], running: Iterable[Sequence]) -> list[Sequence]:
        """Sorts the waiting sequences by turn."""
        shares = _Shares(running)
        return sorted(waiting, key=lambda sequence: self._rank(sequence, shares))

    def _rank(self, sequence: Sequence, shares: "_Shares") -> tuple[int | bool, ...]:
        group = sequence.group
        return (
            not sequence.was_preempted,  # else it already had its turn
            shares.of_client[group.client],
            self._last[group.client],
            shares.of_group[id(group)],
            group.turn,
            sequence.arrived_at,
        )

    def over_share(self, running: list[Sequence], newcomer: Sequence) -> Sequence | None:
        """The running sequence to preempt for `newcomer`, if any: the youngest of a client with at
        least two sequences more than the newcomer's client, else of a request of that client with
        at least two more than the newcomer's request."""
        shares, group = _Shares(running), newcomer.group
        others = [s for s in reversed(running) if s.group.client != group.client]
        own = [s for s in reversed(running) if s.group.client == group.client]
        # `max` takes the first of equals: the youngest.
        victim = max(others, key=lambda s: shares.of_client[s.group.client], default=None)
        if victim and shares.of_client[victim.group.client] > shares.of_client[group.client] + 1:
            return victim
        victim = max(own, key=lambda s: shares.of_group[id(s.group)], default=None)
        if victim and shares.of_group[id(victim.group)] > shares.of_group[id(group)] + 1:
            return victim
        return None


def prompts_in_turn(prompts: list[Sequence], step: int) -> list[Sequence]:
    """Sorts running sequences, given in order of admission, by their turn for prompt time: one
    prompt of each client, the shortest rest first; then the second ones. `step`: its number.
    """
    by_client: Counter[str] = Counter()
    by_group: Counter[int] = Counter()
    num_clients = len({sequence.group.client for sequence in prompts})
    ranks: dict[Sequence, tuple[bool | int, ...]] = {}
    for sequence in prompts:
        group = sequence.group
        idle_steps = step - max(sequence.stepped_at, sequence.admitted_at)
        ranks[sequence] = (
            idle_steps <= PATIENCE,
            by_client[group.client] if num_clients > 1 else 0,
            by_group[id(group)],
            sequence.num_pending,
        )
        by_client[group.client] += 1
        by_group[id(group)] += 1
    return sorted(prompts, key=ranks.__getitem__)


def num_requests(sequences: Iterable[Sequence]) -> int:
    """How many requests the sequences are of."""
    return len({id(sequence.group) for sequence in sequences})


class _Shares:
    """The number of running sequences of each client and of each request."""

    def __init__(self, running: Iterable[Sequence]):
        groups = [sequence.group for sequence in running]
        self.of_client = Counter(group.client for group in groups)
        self.of_group = Counter(id(group) for group in groups)


def least_recent(sequences: list[Sequence], limit: int) -> list[Sequence]:
    """All, or the `limit` whose last step is longest ago."""
    if len(sequences) <= limit:
        return sequences
    return sorted(sequences, key=lambda sequence: sequence.stepped_at)[:limit]


def came_together(streams: list[Sequence], prompts: list[Sequence]) -> bool:
    """Whether all streams are of the first prompt's client, began after it was admitted, and were
    not admitted much later; and more requests still read than only stream: those that came together
    share the wait. Streams that flowed when the prompt came are to flow on, and so are those that
    come while it is read."""
    first = prompts[0]
    reading = {id(prompt.group) for prompt in prompts}
    streaming = {id(stream.group) for stream in streams} - reading
    if not streams or len(streaming) >= len(reading):
        return False
    return all(
        stream.decoding_since >= first.admitted_at >= stream.admitted_at - TOGETHER
        and stream.group.client == first.group.client
        for stream in streams
    )
