"""A log of events gives every reader every event once, wherever writing and reading are cut."""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import pytest
from waiting import run

from localinfra.api.http.event_log import AT_ONCE, EventLog
from localinfra.errors import InvalidRequest

EVENTS = [b"event: a\ndata: %d\n\n" % number for number in range(5)]


def ways_to_cut(events: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Into writes of one or more whole events."""
    for num_cuts in range(len(events)):
        for cuts in combinations(range(1, len(events)), num_cuts):
            ends = [0, *cuts, len(events)]
            yield [b"".join(events[start:end]) for start, end in pairwise(ends)]


async def read(log: EventLog, start: int) -> bytes:
    return b"".join([piece async for piece in log.follow(start)])


@pytest.mark.parametrize("writes", [*ways_to_cut(EVENTS)], ids=len)
def test_readers_of_any_number_and_place_get_all_that_follows(writes: list[bytes]) -> None:
    """One reader for each place, from each moment on: before, between and after the writes."""

    async def test() -> None:
        log, readers = EventLog(), []
        places = range(len(EVENTS) + 1)
        for write in [*writes, None]:
            readers += [(at, asyncio.create_task(read(log, at))) for at in places]
            await asyncio.sleep(0)
            if write is None:
                log.end()
            else:
                log.append(write)
            await asyncio.sleep(0)
        readers += [(at, asyncio.create_task(read(log, at))) for at in places]
        for at, reader in readers:
            assert await reader == b"".join(EVENTS[at:])

    run(test)


def test_a_reader_far_behind_gets_it_in_pieces() -> None:
    async def test() -> None:
        log = EventLog()
        events = [b"data: %d\n\n" % number for number in range(3 * AT_ONCE + 1)]
        log.append(b"".join(events))
        log.end()
        pieces = [piece async for piece in log.follow(1)]
        assert b"".join(pieces) == b"".join(events[1:]) and len(pieces) == 4 - 1

    run(test)


def test_the_oldest_events_are_dropped_first() -> None:
    async def test() -> None:
        log = EventLog()
        log.append(b"".join(EVENTS))
        slow = log.follow(0)
        assert log.drop(len(EVENTS[0]) + 1) == len(EVENTS[0]) * 2
        assert (log.first, log.num_bytes) == (2, len(EVENTS[0]) * 3)
        log.end()
        assert await read(log, 2) == b"".join(EVENTS[2:])
        with pytest.raises(InvalidRequest, match="before number 2 are no longer kept"):
            log.check(1)
        with pytest.raises(InvalidRequest):
            await anext(slow)
        assert log.drop(1000) == len(EVENTS[0]) * 3 and log.num_bytes == 0

    run(test)
