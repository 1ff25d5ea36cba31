"""Places in the threads: who waits, who goes first, who is refused."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from localinfra.errors import QueueFull
from localinfra.executor import BoundedExecutor, DaemonThreads, in_daemon_thread, is_abandoned
from localinfra.shares import current_client


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def test_one_job_too_many_is_refused_and_others_go_on() -> None:
    async def test() -> None:
        executor, gate = BoundedExecutor("tests", 1, 2), threading.Event()
        jobs = [asyncio.create_task(executor.run(gate.wait)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await executor.run(gate.wait)
        gate.set()
        assert await asyncio.gather(*jobs) == [True] * 3
        assert await executor.run(lambda: "free again") == "free again"

    run(test())


def test_the_smallest_job_runs_first() -> None:
    async def test() -> None:
        executor, gate = BoundedExecutor("tests", 1, 10), threading.Event()
        order: list[int] = []
        jobs: list[asyncio.Task[object]] = [asyncio.create_task(executor.run(gate.wait))]
        for size in (30_000, 10_000, 20_000):
            jobs.append(asyncio.create_task(executor.run(order.append, size, size=size)))
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*jobs)
        assert order == [10_000, 20_000, 30_000]

    run(test())


@pytest.mark.parametrize("victim", [1, 2])
def test_a_cancelled_caller_frees_its_place(victim: int) -> None:
    async def test() -> None:
        executor, gate = BoundedExecutor("tests", 1, 2), threading.Event()
        done: list[int] = []
        jobs: list[asyncio.Task[object]] = [asyncio.create_task(executor.run(gate.wait))]
        jobs += [asyncio.create_task(executor.run(done.append, number)) for number in (1, 2)]
        await asyncio.sleep(0)
        jobs[victim].cancel()
        await asyncio.sleep(0)
        jobs.append(asyncio.create_task(executor.run(done.append, 3)))
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*jobs, return_exceptions=True)
        assert done == [number for number in (1, 2, 3) if number != victim]

    run(test())


def test_a_place_handed_to_a_cancelled_caller_is_not_lost() -> None:
    async def test() -> None:
        executor, gate = BoundedExecutor("tests", 1, 2), threading.Event()
        first = asyncio.create_task(executor.run(gate.wait))
        waiting = asyncio.create_task(executor.run(lambda: None))
        await asyncio.sleep(0)
        [(_, _, place, _)] = executor._small._rows
        place.add_done_callback(lambda _: waiting.cancel())  # after the handing over
        gate.set()
        await asyncio.gather(first, waiting, return_exceptions=True)
        assert waiting.cancelled()
        assert await executor.run(lambda: "free") == "free"

    run(test())


def test_running_work_sees_that_its_caller_has_left() -> None:
    async def test() -> None:
        executor, begun, told = BoundedExecutor("tests", 1, 0), threading.Event(), []

        def work() -> None:
            begun.set()
            while not is_abandoned():
                pass
            told.append(True)

        job = asyncio.create_task(executor.run(work))
        await asyncio.to_thread(begun.wait)
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
        while executor._num_running:
            await asyncio.sleep(0.001)
        assert told == [True]
        assert await executor.run(is_abandoned) is False

    run(test())


def test_a_full_queue_still_has_the_share_of_other_clients() -> None:
    async def test() -> None:
        executor, gate = BoundedExecutor("tests", 1, 4), threading.Event()

        def submit(client: str) -> "asyncio.Task[bool]":
            current_client.set(client)  # tasks begin with a copy of it
            return asyncio.create_task(executor.run(gate.wait))

        taken = [submit("a") for _ in range(5)] + [submit("b") for _ in range(2)]
        refused = [submit("a"), submit("b")]
        for task in refused:
            with pytest.raises(QueueFull):
                await task
        gate.set()
        assert await asyncio.gather(*taken) == [True] * 7

    run(test())


THREADS: list[Callable[[], BoundedExecutor | DaemonThreads]] = [
    lambda: BoundedExecutor("tests", 1, 100),
    lambda: DaemonThreads("tests", 1, 100),
]


def submitting(threads: BoundedExecutor | DaemonThreads) -> Callable[..., "asyncio.Task[object]"]:
    """A function that gives the threads a client's work, which is called with its name."""

    def submit(client: str, work: Callable[[str], object]) -> "asyncio.Task[object]":
        current_client.set(client)  # tasks begin with a copy of it
        return asyncio.create_task(threads.run(work, client))

    return submit


@pytest.mark.parametrize("make", THREADS, ids=["bounded", "daemons"])
def test_clients_take_turns_however_many_jobs_one_of_them_sends(
    make: Callable[[], BoundedExecutor | DaemonThreads],
) -> None:
    async def test() -> None:
        threads, gate = make(), threading.Event()
        submit = submitting(threads)
        order: list[str] = []

        jobs = [submit("a", lambda _: gate.wait())]
        jobs += [submit("a", order.append) for _ in range(6)]
        await asyncio.sleep(0)
        jobs += [submit(client, order.append) for client in "bcbc"]
        await asyncio.sleep(0)
        given_up = submit("b", order.append)
        await asyncio.sleep(0)
        given_up.cancel()
        gate.set()
        await asyncio.gather(*jobs)
        assert order == [*"abc", *"abc", *"aaaa"]

    run(test())


@pytest.mark.parametrize("make", THREADS, ids=["bounded", "daemons"])
def test_jobs_that_are_given_up_cost_their_client_no_turns(
    make: Callable[[], BoundedExecutor | DaemonThreads],
) -> None:
    """Nor do they stay in memory: what all wait for may hang for ever."""

    async def test() -> None:
        threads, gate = make(), threading.Event()
        submit = submitting(threads)
        order: list[str] = []

        jobs = [submit("c", lambda _: gate.wait())]
        jobs += [submit("a", order.append)]
        for _ in range(50):
            given_up = submit("a", order.append)
            await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.gather(given_up, return_exceptions=True)
        line = threads._line if isinstance(threads, DaemonThreads) else threads._small
        assert len(line._rows) == 1
        jobs += [submit(client, order.append) for client in "bbba"]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*jobs)
        assert order == [*"ab", *"ba", "b"]

    run(test())


def test_the_share_of_a_client_in_daemon_threads_is_its_own() -> None:
    async def test() -> None:
        threads, gate = DaemonThreads("tests", 1, 4), threading.Event()

        def submit(client: str) -> "asyncio.Task[bool]":
            current_client.set(client)
            return asyncio.create_task(threads.run(gate.wait))

        taken = [submit("a") for _ in range(5)] + [submit("b") for _ in range(2)]
        for refused in [submit("a"), submit("b")]:
            with pytest.raises(QueueFull):
                await refused
        gate.set()
        assert await asyncio.gather(*taken) == [True] * 7

    run(test())


def test_large_jobs_leave_a_thread_to_small_ones() -> None:
    async def test() -> None:
        executor, gate = BoundedExecutor("tests", 2, 16, large_size=10), threading.Event()
        large = [asyncio.create_task(executor.run(gate.wait, size=11)) for _ in range(3)]
        await asyncio.sleep(0)
        assert await executor.run(lambda: "small", size=10) == "small"
        assert not any(job.done() for job in large)
        with pytest.raises(QueueFull):  # they have an eighth of the queue
            await executor.run(gate.wait, size=11)
        gate.set()
        assert await asyncio.gather(*large) == [True] * 3

    run(test())


def test_a_large_job_is_not_delayed_forever() -> None:
    async def test() -> None:
        executor, gate = BoundedExecutor("tests", 1, 100), threading.Event()
        order: list[str] = []
        jobs: list[asyncio.Task[object]] = [asyncio.create_task(executor.run(gate.wait))]
        jobs.append(asyncio.create_task(executor.run(order.append, "large", size=5000)))
        jobs += [asyncio.create_task(executor.run(order.append, "small")) for _ in range(50)]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*jobs)
        assert 0 < order.index("large") < 10

    run(test())


def test_an_error_reaches_the_caller_and_frees_the_place() -> None:
    async def test() -> None:
        executor = BoundedExecutor("tests", 1, 0)
        with pytest.raises(ZeroDivisionError):
            await executor.run(lambda: 1 / 0)
        assert await executor.run(lambda: 1) == 1

    run(test())


def test_a_thread_keeps_its_place_when_its_caller_has_left() -> None:
    async def test() -> None:
        threads, gate = DaemonThreads("tests", 1, 1), threading.Event()
        hung = asyncio.create_task(threads.run(gate.wait))
        await asyncio.sleep(0)
        hung.cancel()
        waiting = asyncio.create_task(threads.run(lambda: "done"))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="tests"):
            await threads.run(lambda: "one too many")
        assert not waiting.done()
        gate.set()
        assert await waiting == "done"
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 / 0)
        assert await threads.run(lambda: "free again") == "free again"

    run(test())


def test_a_thread_gives_its_place_back_though_nobody_else_knows_its_work() -> None:
    """Which garbage collection must not take for garbage."""

    async def test() -> None:
        threads, gate = DaemonThreads("tests", 1, 1), threading.Event()
        caller = asyncio.create_task(threads.run(gate.wait))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait((caller,))
        del caller
        gc.collect()
        gate.set()
        assert await threads.run(lambda: "free again") == "free again"

    run(test())


def test_a_panic_of_a_library_is_an_ordinary_error() -> None:
    """Which handlers of errors see."""

    class Panic(BaseException):
        pass

    def work() -> None:
        raise Panic("assertion failed")

    async def test() -> None:
        executor = BoundedExecutor("tests", 1, 2)
        with pytest.raises(RuntimeError, match="assertion failed"):
            await executor.run(work)
        assert await executor.run(lambda: "goes on") == "goes on"

    run(test())


@pytest.mark.parametrize("where", ["bounded", "daemons", "one daemon"])
def test_what_work_was_given_is_freed_though_it_fails(where: str) -> None:
    """It may have megabytes, and an error has the frames that it came through."""

    class Body:
        pass

    def work(body: Body) -> None:
        raise ValueError("a mistake in it")

    async def user(
        run: Callable[[Callable[[Body], None], Body], Awaitable[None]],
    ) -> "weakref.ref[Body]":
        body = Body()
        with pytest.raises(ValueError):
            await run(work, body)
        return weakref.ref(body)

    async def test() -> None:
        given = await user(
            {
                "bounded": BoundedExecutor("tests", 1, 2).run,
                "daemons": DaemonThreads("tests", 1, 2).run,
                "one daemon": lambda *job: in_daemon_thread(*job, name="tests"),
            }[where]
        )
        while given() is not None:  # threads may take a moment to forget their work
            await asyncio.sleep(0.001)

    gc.disable()
    try:
        run(test())
    finally:
        gc.enable()
