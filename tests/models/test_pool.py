"""Loading once, failing for a while, dropping broken models; models are plain objects here."""

import asyncio
import threading
import time

import pytest
from waiting import run, until

from localinfra.errors import ApiError, ModelUnavailable
from localinfra.footprint import CPU, Footprint
from localinfra.models import failures
from localinfra.models import pool as pool_module
from localinfra.models.pool import LoadState, Pool
from localinfra.models.seats import LoadPlan
from localinfra.models.sharing import Sharing


class Model:
    def __init__(self, name: str) -> None:
        self.name = name
        self.fault: str | None = None
        self.error: Exception | None = None  # raised by close
        self.is_busy = self.is_closed = False
        self.may_close = threading.Event()
        self.may_close.set()

    def close(self) -> None:
        assert self.may_close.wait(60)
        if self.error:
            raise self.error
        self.is_closed = True


class Clock:
    """A fake time.monotonic()."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


class Shelf:
    """Makes models, or raises `error`."""

    def __init__(self) -> None:
        self.made: list[Model] = []
        self.error: BaseException | None = None
        self.num_loads = 0
        self.may_load = threading.Event()
        self.may_load.set()
        self.pool: Pool[Model] = Pool(
            self.load, Model.close, lambda model: model.fault, lambda model: model.is_busy
        )

    def load(self, name: str, plan: LoadPlan) -> Model:
        self.num_loads += 1
        assert self.may_load.wait(60)
        if self.error:
            raise self.error
        self.made.append(Model(name))
        return self.made[-1]


class Panic(BaseException):
    pass


def test_concurrent_requests_share_one_load() -> None:
    async def test() -> None:
        shelf = Shelf()
        models = await asyncio.gather(*(shelf.pool.get("a") for _ in range(5)))
        assert set(models) == {shelf.made[0]} and shelf.pool.state("a") is LoadState.LOADED
        assert await shelf.pool.close()
        assert shelf.made[0].is_closed
        with pytest.raises(ModelUnavailable):
            await shelf.pool.get("a")

    run(test)


def test_a_model_that_broke_is_dropped_and_comes_back_with_the_next_request() -> None:
    async def test() -> None:
        shelf = Shelf()
        first = await shelf.pool.get("a")
        other = await shelf.pool.get("b")
        first.fault = "its thread ended"
        shelf.pool.check()
        assert {name: fault.reason for name, fault in shelf.pool.faults("ab").items()} == {
            "a": "its thread ended"
        }
        assert shelf.pool.loaded() == {"b": other} and shelf.pool.state("a") is LoadState.ABSENT
        second = await shelf.pool.get("a")
        assert second is not first and first.is_closed and not shelf.pool.faults("ab")
        second.fault = "again"  # noticed by the request itself
        assert (await shelf.pool.get("a")) is shelf.made[-1] is not second
        await shelf.pool.close()

    run(test)


def test_a_model_unloaded_while_it_loads_serves_only_those_that_waited() -> None:
    async def test() -> None:
        shelf = Shelf()
        shelf.may_load.clear()
        early = asyncio.create_task(shelf.pool.lease("a"))
        await until(lambda: shelf.num_loads == 1)
        unload = asyncio.create_task(shelf.pool.unload("a"))
        await asyncio.sleep(0)
        late = asyncio.create_task(shelf.pool.lease("a"))
        shelf.may_load.set()
        lease = await early
        assert lease.model is shelf.made[0] and not unload.done() and not late.done()
        lease.release()
        await unload
        assert shelf.made[0].is_closed and (await late).model is shelf.made[1]
        await shelf.pool.close()

    run(test)


def test_an_unload_before_the_load_makes_a_new_plan() -> None:
    """The plan may be from settings that are no longer true."""
    plans: list[str] = []
    may_plan = threading.Event()

    def plan(name: str, held: Footprint) -> LoadPlan:
        plans.append(name)
        assert may_plan.wait(60)
        return LoadPlan(expected=Footprint({CPU: plans.count(name)}))

    async def test() -> None:
        loaded: list[LoadPlan] = []

        def load(name: str, plan: LoadPlan) -> Model:
            loaded.append(plan)
            return Model(name)

        pool = Pool(load, Model.close, sharing=Sharing(plan=plan))
        request = asyncio.create_task(pool.get("a"))
        await until(lambda: plans == ["a"])
        await pool.unload("a")
        await until(lambda: plans == ["a", "a"])
        may_plan.set()
        await request
        assert [one.expected for one in loaded] == [Footprint({CPU: 2})]
        await pool.close()

    run(test)


def test_an_idle_model_is_unloaded_after_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    async def test() -> None:
        shelf = Shelf()
        for name in "abc":
            await shelf.pool.get(name)
        working = shelf.made[2]
        working.is_busy = True

        async def still_there(after_s: float) -> set[str]:
            clock.now += after_s
            await shelf.pool.unload_idle({"a": 10.0, "b": None, "c": 10.0})
            return set(shelf.pool.loaded())

        assert await still_there(9) == {"a", "b", "c"}
        await shelf.pool.get("a")
        assert await still_there(9) == {"a", "b", "c"}
        assert await still_there(2) == {"b", "c"} and shelf.made[0].is_closed
        working.is_busy = False
        assert await still_there(9) == {"b", "c"}
        assert await still_there(2) == {"b"} and working.is_closed
        assert await shelf.pool.get("a") is shelf.made[3]
        await shelf.pool.close()

    run(test)


def test_an_idle_model_that_can_not_be_freed_does_not_keep_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(monkeypatch)

    async def test() -> None:
        shelf = Shelf()
        broken, fine = await shelf.pool.get("a"), await shelf.pool.get("b")
        broken.error = OSError("the device is gone")
        clock.now += 2
        await shelf.pool.unload_idle({"a": 1.0, "b": 1.0})
        assert fine.is_closed and "a could not be freed" in caplog.text
        await shelf.pool.close()

    run(test)


def test_a_model_that_can_not_be_freed_does_not_block_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "UNLOAD_LIMIT_S", 0.05)

    async def test() -> None:
        shelf = Shelf()
        first = await shelf.pool.get("a")
        first.may_close.clear()
        first.fault = "it hangs"
        second = await shelf.pool.get("a")
        assert second is not first and not first.is_closed
        first.may_close.set()
        await until(lambda: first.is_closed)
        await shelf.pool.close()

    run(test)


def test_a_model_given_up_for_good_is_not_loaded_again() -> None:
    async def test() -> None:
        shelf = Shelf()
        await shelf.pool.get("a")
        [seat] = shelf.pool.seats
        shelf.pool.drop(seat, "it hung three times", is_final=True)
        with pytest.raises(ModelUnavailable, match="hung three times"):
            await shelf.pool.get("a")
        assert shelf.num_loads == 1 and shelf.pool.faults("ab")
        await shelf.pool.close()

    run(test)


@pytest.mark.parametrize("error", [OSError("no such disk"), MemoryError(), Panic("poisoned")])
def test_a_failed_load_is_remembered_for_some_seconds(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        shelf = Shelf()
        shelf.error = error
        for _ in range(3):
            with pytest.raises(ModelUnavailable) as caught:
                await shelf.pool.get("a")
            assert 1 <= (caught.value.retry_after_s or 0) <= failures.RETRY_AFTER_S
        assert shelf.num_loads == 1 and shelf.pool.state("a") is LoadState.FAILED
        assert not shelf.pool.faults("ab")  # it was never loaded
        shelf.error = None
        later = time.monotonic() + failures.RETRY_AFTER_S
        monkeypatch.setattr(time, "monotonic", lambda: later)
        assert (await shelf.pool.get("a")).name == "a"
        await shelf.pool.close()

    run(test)


def test_the_error_for_absent_files_is_unchanged_and_has_no_retry_after() -> None:
    async def test() -> None:
        shelf = Shelf()
        shelf.error = ModelUnavailable("Fetch it: localinfra fetch a", "model")
        with pytest.raises(ApiError, match="Fetch it") as caught:
            await shelf.pool.get("a")
        assert caught.value.retry_after_s is None
        await shelf.pool.close()

    run(test)


def test_a_broken_model_that_can_not_be_loaded_stays_a_fault_with_retry_after() -> None:
    async def test() -> None:
        shelf = Shelf()
        (await shelf.pool.get("a")).fault = "its thread ended"
        shelf.error = ModelUnavailable("no memory", "model")
        for _ in range(3):
            with pytest.raises(ModelUnavailable) as caught:
                await shelf.pool.get("a")
            assert caught.value.retry_after_s
        assert shelf.num_loads == 2 and shelf.pool.faults("ab")["a"].reason == "its thread ended"
        await shelf.pool.close()

    run(test)


def test_closing_has_a_deadline(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        shelf = Shelf()
        stuck, fine = await shelf.pool.get("a"), await shelf.pool.get("b")
        stuck.may_close.clear()
        assert not await shelf.pool.close(0.2)
        assert fine.is_closed and "a did not end" in caplog.text
        stuck.may_close.set()

    run(test)


def test_a_load_that_hangs_ends_with_the_deadline_too() -> None:
    async def test() -> None:
        may_go = threading.Event()
        pool: Pool[bool] = Pool(lambda name, plan: may_go.wait(60), lambda model: None)
        waiting = asyncio.create_task(pool.get("a"))
        await until(lambda: pool.state("a") is LoadState.LOADING)
        assert not await pool.close(0.05)
        waiting.cancel()
        may_go.set()

    run(test)
