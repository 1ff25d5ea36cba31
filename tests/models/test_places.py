"""Which requests may wait for a model that is not in memory, and which are refused."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from models.test_pool import Model, Shelf
from models.test_schedules import Schedule, run_jumping
from waiting import run, until

from localinfra.errors import QueueFull
from localinfra.models.pool import LoadState, Pool
from localinfra.models.seats import Lease
from localinfra.shares import current_client

MOST = 4

Ask = Callable[[str], "asyncio.Task[Lease[Model]]"]


def while_loading(test: Callable[[Shelf, Ask], Awaitable[None]]) -> None:
    """`test` gets a pool whose loads wait, and a function by which a client asks for "a"."""

    async def whole() -> None:
        shelf = Shelf()
        shelf.may_load.clear()
        try:
            await test(shelf, lambda client: asyncio.create_task(ask(shelf.pool, client)))
        finally:
            shelf.may_load.set()
        await shelf.pool.close()

    run(whole)


async def ask(pool: Pool[Model], client: str) -> Lease[Model]:
    current_client.set(client)
    return await pool.lease("a", MOST)


async def filled(
    ask: Ask, client: str, error: str = "raise max_queue"
) -> list[asyncio.Task[object]]:
    """Asks until a request is refused; returns those that wait."""
    waiting: list[asyncio.Task[object]] = []
    for _ in range(9):
        task = ask(client)
        await asyncio.sleep(0)
        if task.done():
            with pytest.raises(QueueFull, match=error) as caught:
                task.result()
            assert caught.value.retry_after_s == 5
            return waiting
        waiting.append(task)
    raise AssertionError("nobody is refused")


def test_no_client_takes_the_places_of_others() -> None:
    async def test(shelf: Shelf, ask: Ask) -> None:
        greedy = await filled(ask, "greedy", "4 requests .*, all with this API key, and")
        assert len(greedy) == MOST
        shy = await filled(ask, "shy", "6 requests .*, 2 of them with this API key, and")
        assert len(shy) == MOST / 2
        assert not await filled(ask, "greedy")
        shelf.may_load.set()
        leases = [await task for task in (*greedy, *shy)]
        assert shelf.num_loads == 1 and len(leases) == 6
        assert len(await asyncio.gather(*[ask("greedy") for _ in range(9)])) == 9  # it is loaded

    while_loading(test)


def test_a_client_that_leaves_frees_its_place_and_nothing_stays_of_it() -> None:
    async def test(shelf: Shelf, ask: Ask) -> None:
        for _ in range(3):
            waiting = await filled(ask, "one")
            assert len(waiting) == MOST
            for task in waiting[1:]:
                task.cancel()
            await asyncio.wait(waiting[1:])
            [seat] = shelf.pool.seats
            assert len(seat.pending.requests) == 1
            waiting[0].cancel()
            await asyncio.wait(waiting[:1])
            assert not seat.pending.requests

    while_loading(test)


def test_a_preload_takes_no_place_and_is_never_refused() -> None:
    async def test(shelf: Shelf, ask: Ask) -> None:
        preload = asyncio.create_task(shelf.pool.get("a"))
        await until(lambda: shelf.num_loads == 1)
        assert len(await filled(ask, "")) == MOST
        revived = asyncio.create_task(shelf.pool.get("a"))
        shelf.may_load.set()
        assert await preload is await revived

    while_loading(test)


def test_a_failed_load_frees_the_places() -> None:
    async def test(shelf: Shelf, ask: Ask) -> None:
        waiting = await filled(ask, "one")
        shelf.error = OSError("no such disk")
        shelf.may_load.set()
        await asyncio.wait(waiting)
        assert shelf.pool.state("a") is LoadState.FAILED
        shelf.error, shelf.pool.failures = None, type(shelf.pool.failures)()
        shelf.may_load.clear()
        assert len(await filled(ask, "one")) == MOST

    while_loading(test)


def test_a_reload_during_a_load_makes_no_second_queue() -> None:
    """Those that came before wait for the old one, those after it for the new one."""

    async def test(shelf: Shelf, ask: Ask) -> None:
        early = [ask("one") for _ in range(MOST - 1)]
        await until(lambda: shelf.num_loads == 1)
        unload = asyncio.create_task(shelf.pool.unload("a"))
        await asyncio.sleep(0)
        late = await filled(ask, "one")
        assert len(late) == 1
        shelf.may_load.set()
        for task in early:
            (await task).release()
        await unload
        assert isinstance(await late[0], Lease) and shelf.num_loads == 2

    while_loading(test)


async def check_refused(pool: Pool[str]) -> None:
    task = asyncio.create_task(pool.lease("a", 2))
    await asyncio.sleep(0)
    assert task.done()
    with pytest.raises(QueueFull):
        task.result()


@pytest.mark.parametrize("is_busy", [False, True])
def test_waiting_for_another_model_to_make_room_counts_too(is_busy: bool) -> None:
    schedule = Schedule({"a": 1, "b": 1}, 1)

    async def test() -> None:
        busy = await schedule.pool.lease("b", 1)
        if not is_busy:
            busy.release()
        swap = [asyncio.create_task(schedule.pool.lease("a", 2)) for _ in range(2)]
        for _ in range(3):  # while it is planned, waits for room, and is loaded
            await asyncio.sleep(0.75)
            assert schedule.pool.state("a") is LoadState.LOADING
            await check_refused(schedule.pool)
        busy.release()
        for lease in await asyncio.gather(*swap):
            lease.release()
        assert await schedule.pool.close(100)

    run_jumping(test)


def test_requests_for_a_model_that_is_closed_for_another_have_a_limit() -> None:
    """It takes no new ones until the other has had its turn."""
    schedule = Schedule({"a": 1, "b": 1}, 1)

    async def test() -> None:
        busy = await schedule.pool.lease("a", 2)
        other = asyncio.create_task(schedule.pool.lease("b", 2))
        await until(lambda: schedule.pool.seats[0].is_closed)
        waiting = [asyncio.create_task(schedule.pool.lease("a", 2)) for _ in range(2)]
        await asyncio.sleep(0)
        await check_refused(schedule.pool)
        busy.release()
        (await other).release()
        for lease in await asyncio.gather(*waiting):
            lease.release()
        assert await schedule.pool.close(100)

    run_jumping(test)
