"""Threads for work that is too long for the event loop, with a bounded queue before them.

Knows nothing of the work. Each kind of work has an executor of its own, so that none can hold up
another's.
"""

import asyncio
import contextlib
import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from localinfra.errors import QueueFull

T = TypeVar("T")

# What a job gains on others while they come: so many units of size for each that came after it.
AGEING = 1000
LARGE_SHARE = 8  # of the places to wait in one is for large jobs, which take as long as many others

_running = threading.local()  # `.job`: whose work a thread does


class _Job:
    """One caller's place, waiting or running."""

    def __init__(self, is_large: bool):
        self.is_large = is_large
        self.is_abandoned = False


def is_abandoned() -> bool:
    """Whether the caller of the job that this thread runs has left. For long work to ask."""
    job: _Job | None = getattr(_running, "job", None)
    return job is not None and job.is_abandoned


class Abandoned(Exception):
    """Ends a job whose caller has left; nobody is there to read it."""


def stop_if_abandoned() -> None:
    """Raises Abandoned."""
    if is_abandoned():
        raise Abandoned


async def give_way() -> None:
    """Between two pieces of work on the event loop: what has come meanwhile is seen to. One
    sleep(0) is not enough, since it goes on before what the loop finds on its sockets then."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


class BoundedExecutor:
    """Runs functions in threads, the smaller first, and keeps a thread for the small ones.
    Event loop only."""

    def __init__(
        self, name: str, num_threads: int, max_waiting: int, large_size: float = float("inf")
    ):
        """`max_waiting` jobs may wait besides those that run; `name` is in the refusal of more.
        Those of more than `large_size` leave one thread free, and most of the queue."""
        assert num_threads > 1 or large_size == float("inf"), "no thread would run large jobs"
        self._name = name
        self._num_threads = num_threads
        self._max_waiting = max_waiting
        self._large_size = large_size
        self._num_running = 0
        self._num_large = 0  # of those
        self._numbers = itertools.count()
        # Heaps of (rank, number, its future, the job): small jobs and large ones.
        self._waiting: dict[bool, list[tuple[int, int, asyncio.Future[None], _Job]]] = {
            False: [],
            True: [],
        }
        self._pool = ThreadPoolExecutor(num_threads, name)

    @property
    def is_busy(self) -> bool:
        """Whether a job runs. None waits unless one does."""
        return self._num_running > 0

    @property
    def num_waiting(self) -> int:
        return sum(not place.done() for heap in self._waiting.values() for _, _, place, _ in heap)

    async def run(self, function: Callable[..., T], *arguments: Any, size: int = 0) -> T:
        """The function's result. A caller that is cancelled gives its place in the queue back;
        from the function itself, `is_abandoned` is true then.

        `size` compares jobs: characters, tokens. Raises QueueFull.
        """
        job = _Job(size > self._large_size)
        await self._take_place(job, size)
        loop = asyncio.get_running_loop()
        try:
            future = self._pool.submit(_run, job, function, *arguments)
        except RuntimeError:  # closed meanwhile
            self._give_place_back(job)
            raise
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._give_place_back, job))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            job.is_abandoned = True
            raise

    def close(self) -> None:
        """Waits for nothing: what still runs ends by its own bounds."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _take_place(self, job: _Job, size: int) -> None:
        if self._has_room(job.is_large):
            self._start(job)
            return
        if self._is_full(job.is_large):
            raise QueueFull(
                f"Too many requests wait for {self._name} already; try again later.",
                retry_after_s=5,
            )
        place = asyncio.get_running_loop().create_future()
        number = next(self._numbers)
        heap = self._waiting[job.is_large]
        heapq.heappush(heap, (size + number * AGEING, number, place, job))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._give_place_back(job)  # it was handed over just before
            raise

    def _is_full(self, is_large: bool) -> bool:
        num_large = sum(not place.done() for _, _, place, _ in self._waiting[True])
        if is_large and num_large >= max(1, self._max_waiting // LARGE_SHARE):
            return True
        return self.num_waiting >= self._max_waiting

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
            if not place.done():
                self._start(other)
                place.set_result(None)

    def _next(self) -> tuple[int, int, asyncio.Future[None], _Job] | None:
        heaps = [
            heap for is_large, heap in self._waiting.items() if heap and self._has_room(is_large)
        ]
        return heapq.heappop(min(heaps)) if heaps else None


def _run(job: _Job, function: Callable[..., T], *arguments: Any) -> T:
    _running.job = job
    try:
        return function(*arguments)
    finally:
        del _running.job


async def in_daemon_thread(function: Callable[..., T], *arguments: Any, name: str) -> T:
    """The function's result, from a thread of its own that keeps no process from ending: for what
    may take very long and can't be stopped. Panics of Rust libraries come as RuntimeError."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(outcome: Callable[[Any], None], value: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: None if future.done() else outcome(value))

    def work() -> None:
        try:
            result = function(*arguments)
        except Exception as error:
            tell(future.set_exception, error)
        except BaseException as error:
            tell(future.set_exception, RuntimeError(f"{error!r:.500}"))
        else:
            tell(future.set_result, result)

    threading.Thread(target=work, name=name, daemon=True).start()
    return await future
