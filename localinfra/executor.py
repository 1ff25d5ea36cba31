"""Threads for work that is too long for the event loop, behind a bounded queue.

Knows nothing of the work. Each kind of work has its own executor, so that none delays another.
"""

import asyncio
import contextlib
import heapq
import itertools
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from localinfra.errors import QueueFull
from localinfra.shares import TurnNumbers, current_client, has_room

T = TypeVar("T")

AGEING = 1000  # units of size that a waiting job gains on each later arrival
LARGE_SHARE = 8  # one in so many queue places may hold a large job: one takes as long as many small

_running = threading.local()  # `.job`: the one that this thread runs


class _Job:
    """One caller's job, waiting or running."""

    def __init__(self, is_large: bool):
        self.is_large = is_large
        self.is_abandoned = False
        self.client = current_client.get()
        self.turn = 0  # if it had to wait


def is_abandoned() -> bool:
    """Whether the caller of this thread's job has left. Long jobs should check it."""
    job: _Job | None = getattr(_running, "job", None)
    return job is not None and job.is_abandoned


class Abandoned(Exception):
    """Ends a job whose caller has left; no one sees it."""


def stop_if_abandoned() -> None:
    """Raises Abandoned if the caller of this thread's job has left."""
    if is_abandoned():
        raise Abandoned


async def give_way() -> None:
    """Lets the event loop handle what has arrived. One sleep(0) is not enough: it resumes before
    the socket events that the loop polls in that turn."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


class BoundedExecutor:
    """Runs functions in threads, smaller jobs first, in turns of the clients, one thread reserved
    for small jobs. Event loop only."""

    def __init__(
        self, name: str, num_threads: int, max_waiting: int, large_size: float = float("inf")
    ):
        """At most `max_waiting` jobs queue besides those that run, and more of clients that have
        less than their share; a refusal gives `name`. Jobs above `large_size` leave one thread and
        most of the queue to smaller ones."""
        assert num_threads > 1 or large_size == float("inf"), "no thread would run large jobs"
        self._name = name
        self._num_threads = num_threads
        self._max_waiting = max_waiting
        self._large_size = large_size
        self._num_running = 0
        self._num_large = 0  # of the running
        self._turns = TurnNumbers()
        self._numbers = itertools.count()
        # is_large → a heap of (rank, number, future, job)
        self._waiting: dict[bool, list[tuple[int, int, asyncio.Future[None], _Job]]] = {
            False: [],
            True: [],
        }
        self._pool = ThreadPoolExecutor(num_threads, name)

    @property
    def is_busy(self) -> bool:
        """Whether a job runs. Jobs wait only while others run."""
        return self._num_running > 0

    @property
    def num_waiting(self) -> int:
        return sum(not place.done() for heap in self._waiting.values() for _, _, place, _ in heap)

    async def run(self, function: Callable[..., T], *arguments: Any, size: int = 0) -> T:
        """Returns the function's result. A cancelled caller leaves the queue; if its function
        already runs, `is_abandoned()` is true there.

        `size` ranks jobs, in characters or tokens. Raises QueueFull if too many wait.
        """
        job = _Job(size > self._large_size)
        await self._take_place(job, size)
        loop = asyncio.get_running_loop()
        try:
            future = self._pool.submit(_run, job, function, *arguments)
        except RuntimeError:  # the pool was closed meanwhile
            self._give_place_back(job)
            raise
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._give_place_back, job))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            job.is_abandoned = True
            raise

    def close(self) -> None:
        """Does not wait: running jobs have limits of their own."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _take_place(self, job: _Job, size: int) -> None:
        if self._has_room(job.is_large):
            self._start(job)
            return
        if self._is_full(job):
            raise refusal(self._name)
        place = asyncio.get_running_loop().create_future()
        job.turn = self._turns.number(job.client)
        heap = self._waiting[job.is_large]
        heapq.heappush(heap, (size + job.turn * AGEING, next(self._numbers), place, job))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._give_place_back(job)  # it had just been handed over
            raise

    def _is_full(self, job: _Job) -> bool:
        large = self._clients(self._waiting[True])
        most_large = max(1, self._max_waiting // LARGE_SHARE)
        if job.is_large and not has_room(large, job.client, most_large):
            return True
        waiting = large + self._clients(self._waiting[False])
        return not has_room(waiting, job.client, self._max_waiting)

    def _clients(self, heap: list[tuple[int, int, asyncio.Future[None], _Job]]) -> Counter[str]:
        """Those whose jobs are waiting there."""
        return Counter(job.client for _, _, place, job in heap if not place.done())

    def _has_room(self, is_large: bool) -> bool:
        if is_large and self._num_large >= self._num_threads - 1:
            return False
        return self._num_running < self._num_threads

    def _start(self, job: _Job) -> None:
        self._num_running += 1
        self._num_large += job.is_large

    def _give_place_back(self, job: _Job) -> None:
        self._num_running -= 1
        self._num_large -= job.is_large
        while found := self._next():
            _, _, place, other = found
            self._turns.begin(other.client, other.turn)
            if not place.done():
                self._start(other)
                place.set_result(None)

    def _next(self) -> tuple[int, int, asyncio.Future[None], _Job] | None:
        heaps = [
            heap for is_large, heap in self._waiting.items() if heap and self._has_room(is_large)
        ]
        return heapq.heappop(min(heaps)) if heaps else None


def _run(job: _Job, function: Callable[..., T], *arguments: Any) -> T:
    """Turns panics of Rust libraries, which are no Exceptions and would pass by all handlers, into
    RuntimeErrors."""
    _running.job = job
    try:
        return function(*arguments)
    except Exception:
        raise
    except BaseException as error:
        raise RuntimeError(f"{error!r:.500}") from error
    finally:
        del _running.job


class DaemonThreads:
    """Runs functions in turns of the clients, a few at once, in daemon threads: for work that may
    hang, as on a disk, and must not keep the process alive. Event loop only."""

    def __init__(self, name: str, num_threads: int, max_waiting: int):
        """At most `max_waiting` callers wait besides those whose function runs, and more of clients
        that have less than their share; a refusal gives `name`."""
        self._name = name
        self._max_waiting = max_waiting
        self._num_free = num_threads
        self._turns = TurnNumbers()
        self._numbers = itertools.count()
        # A heap of (turn, number, future, client).
        self._waiting: list[tuple[int, int, asyncio.Future[None], str]] = []

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Returns the function's result. Raises QueueFull if too many wait."""
        await self._take_place(current_client.get())
        work = asyncio.ensure_future(in_daemon_thread(function, *arguments, name=self._name))
        work.add_done_callback(self._leave)
        return await asyncio.shield(work)  # a thread holds its place, also if its caller leaves

    async def _take_place(self, client: str) -> None:
        if self._num_free:
            self._num_free -= 1
            return
        waiting = Counter(other for _, _, place, other in self._waiting if not place.done())
        if not has_room(waiting, client, self._max_waiting):
            raise refusal(self._name)
        place = asyncio.get_running_loop().create_future()
        row = (self._turns.number(client), next(self._numbers), place, client)
        heapq.heappush(self._waiting, row)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._give_place_back()  # it had just been handed over
            raise

    def _give_place_back(self) -> None:
        while self._waiting:
            turn, _, place, client = heapq.heappop(self._waiting)
            self._turns.begin(client, turn)
            if not place.done():
                place.set_result(None)
                return
        self._num_free += 1

    def _leave(self, work: "asyncio.Future[Any]") -> None:
        self._give_place_back()
        if not work.cancelled():
            work.exception()  # seen, if the caller has left


def refusal(name: str) -> QueueFull:
    return QueueFull(
        f"Too many requests are already waiting for {name}; try again later.", retry_after_s=5
    )


async def in_daemon_thread(function: Callable[..., T], *arguments: Any, name: str) -> T:
    """Returns the function's result from a daemon thread: for work that may take very long and
    can't be stopped. Turns panics of Rust libraries into RuntimeError."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[Any], None], value: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: None if future.done() else outcome(value))

    def work() -> None:
        try:
            result = function(*arguments)
        except Exception as error:
            settle(future.set_exception, error)
        except BaseException as error:
            settle(future.set_exception, RuntimeError(f"{error!r:.500}"))
        else:
            settle(future.set_result, result)

    threading.Thread(target=work, name=name, daemon=True).start()
    return await future
