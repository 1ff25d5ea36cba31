"""Schedules of requests at the whole pool, in a time of their own: who waits how long."""

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models.test_swaps import GPU, PATIENCE_S, takes

from localinfra.errors import ModelUnavailable
from localinfra.footprint import CPU, Footprint
from localinfra.models import pool as pool_module
from localinfra.models.pool import RECHECK_S, LoadState, Pool
from localinfra.models.seats import LoadPlan
from localinfra.models.sharing import Sharing


class Jumping(selectors.DefaultSelector):
    """Instead of waiting for a timer, sets the clock to it."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "a deadlock: nothing will ever happen"
        self.now += timeout
        return super().select(0)


def run_jumping(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    selector = Jumping()
    loop = asyncio.SelectorEventLoop(selector)
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=lambda: loop) as runner:
        patch.setattr(loop, "time", lambda: selector.now)
        patch.setattr(time, "monotonic", lambda: selector.now)
        patch.setattr(pool_module, "in_daemon_thread", call)
        runner.run(test())


async def call(function: Callable[..., Any], *arguments: Any, name: str) -> Any:
    """In place of a thread. Models take their time by their name's kind of work."""
    kinds_s = {"plan": 0.0, "load": LOAD_S, "unload": UNLOAD_S, "move": MOVE_S}
    await asyncio.sleep(kinds_s[name.split()[0]])
    return function(*arguments)


LOAD_S, UNLOAD_S, MOVE_S = 2.0, 1.0, 0.5
MAX_USE_S = 12.0


class Client(NamedTuple):
    """Sends a request as soon as its last one has ended."""

    starts_after_s: float
    model: str
    use_s: float
    num_requests: int
    leaves_after_s: float | None  # of waiting for the model


clients = st.lists(
    st.builds(
        Client,
        starts_after_s=st.sampled_from([0, 0.25, 0.5, 0.75, 3, 11, 30]),
        model=st.sampled_from("abcd"),
        use_s=st.sampled_from([1, 1, 5, MAX_USE_S]),
        num_requests=st.sampled_from([1, 3, 40]),
        leaves_after_s=st.sampled_from([None, None, LOAD_S, 3, 8]),
    ),
    min_size=1,
    max_size=10,
)


@dataclass
class Schedule:
    """Arrivals at a pool whose models take `sizes`, within a budget. Their prefixes take all that
    they leave."""

    sizes: dict[str, int]
    budget: int
    taken: int = 0
    prefixes: int = 0
    most_taken: int = 0
    unloaded_in_use: list[str] = field(default_factory=list)
    in_use: list[str] = field(default_factory=list)
    served: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pool: Pool[str] = Pool(
            self.load,
            self.unload,
            sharing=Sharing(
                plan=lambda name, _: LoadPlan(takes(self.sizes[name])),
                takes=lambda name: takes(self.sizes[name]),
                room=lambda _: {CPU: self.budget},
                patience_s=lambda: PATIENCE_S,
                changed=self.changed,
            ),
        )

    def changed(self, takes: Mapping[str, Footprint]) -> None:
        self.prefixes = max(0, self.budget - sum(one.bytes_on[CPU] for one in takes.values()))

    def load(self, name: str, plan: LoadPlan) -> str:
        self.taken += self.sizes[name]
        self.most_taken = max(self.most_taken, self.taken + self.prefixes)
        return name

    def unload(self, name: str) -> None:
        self.unloaded_in_use += [name] if name in self.in_use else []
        self.taken -= self.sizes[name]

    async def run(self, clients: list[Client]) -> None:
        await asyncio.gather(*map(self.serve, clients))
        assert self.most_taken <= self.budget and not self.unloaded_in_use
        assert not any(seat.num_leases for seat in self.pool.seats)
        assert await self.pool.close(100)
        assert not self.taken

    async def serve(self, client: Client) -> None:
        await asyncio.sleep(client.starts_after_s)
        for _ in range(client.num_requests):
            await self.request(client.model, client.use_s, client.leaves_after_s)

    async def request(self, model: str, use_s: float, leaves_after_s: float | None) -> None:
        seat, started = self.pool.seats.named(model), time.monotonic()
        is_ready = seat is not None and seat.is_open
        try:
            async with asyncio.timeout(leaves_after_s):
                lease = await self.pool.lease(model)
        except ModelUnavailable:
            assert self.sizes[model] > self.budget
            return
        except TimeoutError:
            return
        waited_s = time.monotonic() - started
        assert waited_s <= (0 if is_ready else self.longest_wait_s)
        self.served.append(model)
        self.in_use.append(lease.model)
        await asyncio.sleep(use_s)
        self.in_use.remove(lease.model)
        lease.release()

    @property
    def longest_wait_s(self) -> float:
        """Each model that is ahead waits until those in its way have had their turn and ended."""
        turn_s = 2 * PATIENCE_S + MAX_USE_S + 2 * LOAD_S + UNLOAD_S + 2 * RECHECK_S
        return len(self.sizes) * turn_s


@given(clients, st.tuples(*[st.integers(1, 4)] * 4), st.integers(2, 8))
def test_every_request_is_answered_within_its_bound_and_the_budget(
    clients: list[Client], sizes: tuple[int, ...], budget: int
) -> None:
    schedule = Schedule(dict(zip("abcd", sizes, strict=True)), budget)
    run_jumping(lambda: schedule.run(clients))


def test_busy_models_take_turns() -> None:
    """Neither is ever idle, and the budget holds one."""
    schedule = Schedule({"a": 1, "b": 1}, 1)
    clients = [Client(at / 4, name, 1, 50, None) for at, name in enumerate("abab")]
    run_jumping(lambda: schedule.run(clients))
    turns = [name for at, name in enumerate(schedule.served) if schedule.served[at - 1] != name]
    assert 8 <= len(turns) <= 12 and schedule.served.count("a") == schedule.served.count("b")


def test_requests_for_a_loaded_model_do_not_wait_for_anothers_swap() -> None:
    schedule = Schedule({"a": 1, "b": 2, "c": 1}, 3)

    async def test() -> None:
        small = await schedule.pool.lease("a")
        (await schedule.pool.lease("b")).release()
        swap = asyncio.create_task(schedule.pool.lease("c"))
        await asyncio.sleep(0.5)
        assert schedule.pool.state("c") is LoadState.LOADING
        before = time.monotonic()
        again = await schedule.pool.lease("a")
        assert time.monotonic() == before
        for lease in (small, again, await swap):
            lease.release()
        assert await schedule.pool.close(100)

    run_jumping(test)


def test_a_model_moved_to_main_memory_comes_back_without_being_loaded_again() -> None:
    taken = {CPU: 0, GPU: 0}
    prefixes = 6  # all that the models leave of main memory
    loads: list[str] = []

    def changed(takes: Mapping[str, Footprint]) -> None:
        nonlocal prefixes
        prefixes = 6 - sum(one.bytes_on[CPU] for one in takes.values())

    def change(more: Footprint, sign: int = 1) -> None:
        for device, size in more.bytes_on.items():
            taken[device] += sign * size
        assert taken[CPU] + prefixes <= 6 and taken[GPU] <= 5

    def load(name: str, plan: LoadPlan) -> str:
        loads.append(name)
        change(plan.takes)
        return name

    awake, moved = takes(1, 4), takes(5)
    pool: Pool[str] = Pool(
        load,
        lambda name: change(awake, -1),
        sharing=Sharing(
            plan=lambda *_: LoadPlan(awake),
            takes=lambda _: awake,
            room=lambda _: {CPU: 6, GPU: 5},
            parked=lambda name: moved if name == "flux" else None,
            park=lambda _: change(moved - awake),
            wake=lambda _: change(awake - moved),
            changed=changed,
        ),
    )

    async def use(name: str) -> None:
        lease = await pool.lease(name)
        assert lease.model == name and taken[GPU] == 4
        await asyncio.sleep(1)
        lease.release()

    async def test() -> None:
        for name in ("flux", "text", "flux", "text"):
            await asyncio.gather(use(name), use(name))
        assert loads == ["flux", "text", "text"]
        assert pool.seats.footprints == {"flux": moved, "text": awake}
        asking = asyncio.create_task(use("text"))
        await pool.unload("text")
        await asking
        await pool.get("flux")  # back, so that closing frees what it takes there
        assert await pool.close(100)
        assert taken == {CPU: 0, GPU: 0}

    run_jumping(test)


def test_a_client_that_leaves_in_the_moment_its_model_is_ready_keeps_no_lease() -> None:
    schedule = Schedule({"a": 1}, 1)

    async def test() -> None:
        client = asyncio.create_task(schedule.pool.lease("a"))
        load = schedule.pool._load

        def leave_and_load(name: str, plan: LoadPlan) -> str:
            asyncio.get_running_loop().call_soon(client.cancel)
            return load(name, plan)

        schedule.pool._load = leave_and_load  # before the plan is made
        with pytest.raises(asyncio.CancelledError):
            await client
        assert not schedule.pool.seats[0].num_leases
        assert await schedule.pool.close(100)

    run_jumping(test)
