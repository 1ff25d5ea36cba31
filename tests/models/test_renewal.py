"""A model that is replaced by a new load of itself, under its requests."""

import asyncio

import pytest
from models.test_pool import Model, Shelf
from waiting import run, until

from localinfra.footprint import CPU, Footprint
from localinfra.models.pool import LoadState, Pool
from localinfra.models.seats import LoadPlan
from localinfra.models.sharing import Sharing


async def renewing(shelf: Shelf) -> "tuple[Model, asyncio.Task[bool]]":
    """A model whose successor is being loaded."""
    old = await shelf.pool.get("a")
    shelf.may_load.clear()
    renewal = asyncio.create_task(shelf.pool.renew("a"))
    await until(lambda: shelf.num_loads == 2)
    return old, renewal


def test_a_renewed_model_keeps_the_requests_it_has_and_gets_no_new_ones() -> None:
    async def test() -> None:
        shelf = Shelf()
        old, renewal = await renewing(shelf)
        lease = await shelf.pool.lease("a")
        assert lease.model is old  # nobody waits for the load
        assert not await shelf.pool.renew("a")  # once at a time
        shelf.may_load.set()
        assert await renewal and not old.is_closed
        new = await shelf.pool.get("a")
        assert new is shelf.made[1] and shelf.pool.loaded() == {"a": new}
        lease.release()
        await until(lambda: old.is_closed)
        assert await shelf.pool.close() and new.is_closed
        assert not await shelf.pool.renew("a")

    run(test)


def test_a_model_that_breaks_beside_its_successor_is_dropped_alone() -> None:
    async def test() -> None:
        shelf = Shelf()
        old, renewal = await renewing(shelf)
        lease = await shelf.pool.lease("a")
        shelf.may_load.set()
        assert await renewal
        old.fault = "its thread ended"
        shelf.pool.check()
        await until(lambda: old.is_closed)
        assert shelf.pool.loaded() == {"a": shelf.made[1]} and not shelf.pool.faults("ab")
        lease.release()
        await shelf.pool.close()

    run(test)


def test_a_model_whose_successor_can_not_be_loaded_stays() -> None:
    async def test() -> None:
        shelf = Shelf()
        old, renewal = await renewing(shelf)
        shelf.error = MemoryError("too little")
        shelf.may_load.set()
        with pytest.raises(MemoryError):
            await renewal
        assert await shelf.pool.get("a") is old and shelf.pool.state("a") is LoadState.LOADED
        shelf.error = None
        assert await shelf.pool.renew("a")
        await shelf.pool.close()

    run(test)


@pytest.mark.parametrize("is_wanted", [True, False])
def test_a_successor_that_comes_too_late_is_freed_unless_it_is_wanted(is_wanted: bool) -> None:
    async def test() -> None:
        shelf = Shelf()
        old, renewal = await renewing(shelf)
        old.fault = "its thread ended"
        shelf.pool.check()
        late = asyncio.create_task(shelf.pool.lease("a")) if is_wanted else None
        await asyncio.sleep(0)
        shelf.may_load.set()
        assert not await renewal
        if late:
            assert (await late).model is shelf.made[1]
        kept = list(shelf.pool.loaded().values())
        assert all(model.is_closed is (model not in kept) for model in shelf.made)
        assert len(kept) == is_wanted
        await shelf.pool.close()

    run(test)


def test_a_model_unloaded_beside_its_successor_takes_it_along() -> None:
    """Its settings may have changed, and the successor was begun with the old ones."""

    async def test() -> None:
        shelf = Shelf()
        _, renewal = await renewing(shelf)
        unloading = asyncio.create_task(shelf.pool.unload("a"))
        await asyncio.sleep(0)
        late = asyncio.create_task(shelf.pool.lease("a"))
        await asyncio.sleep(0)
        shelf.may_load.set()
        assert not await renewal
        await unloading
        assert (await late).model is shelf.made[2]
        assert [model.is_closed for model in shelf.made] == [True, True, False]
        await shelf.pool.close()

    run(test)


def test_an_idle_successor_leaves_while_its_predecessor_still_answers() -> None:
    async def test() -> None:
        shelf = Shelf()
        old, renewal = await renewing(shelf)
        lease = await shelf.pool.lease("a")
        shelf.may_load.set()
        await renewal
        await shelf.pool.unload_idle({"a": 0.0})
        assert shelf.made[1].is_closed and not old.is_closed
        lease.release()
        await shelf.pool.close()

    run(test)


def test_there_must_be_memory_for_both() -> None:
    async def test() -> None:
        sizes = {CPU: 3}
        pool: Pool[str] = Pool(
            lambda name, plan: name,
            lambda model: None,
            sharing=Sharing(
                plan=lambda name, held: LoadPlan(Footprint({CPU: 2})),
                takes=lambda model: Footprint({CPU: 2}),
                room=lambda held: sizes,
            ),
        )
        await pool.get("a")
        assert not await pool.renew("a")
        sizes[CPU] = 4
        assert await pool.renew("a")
        await pool.close()

    run(test)


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_closing_frees_both_models(is_cancelled: bool) -> None:
    async def test() -> None:
        shelf = Shelf()
        _, renewal = await renewing(shelf)
        if is_cancelled:
            renewal.cancel()
        closing = asyncio.create_task(shelf.pool.close())
        await asyncio.sleep(0.01)
        shelf.may_load.set()
        assert await closing
        assert len(shelf.made) == 2 and all(model.is_closed for model in shelf.made)
        await asyncio.wait((renewal,))

    run(test)
