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


class BoundedExecutor:
    """Runs functions in threads, the smallest first. Event loop only."""

    def __init__(self, name: str, num_threads: int, max_waiting: int):
        """`max_waiting` jobs may wait besides those that run; `name` is in the refusal of more."""
        self._name = name
        self._num_threads = num_threads
        self._max_waiting = max_waiting
        self._num_running = 0
        self._numbers = itertools.count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap: size, number
        self._pool = ThreadPoolExecutor(num_threads, name)

    async def run(self, function: Callable[..., T], *arguments: Any, size: int = 0) -> T:
        """The function's result. A caller that is cancelled gives its place in the queue back.

        `size` compares jobs: characters, tokens. Raises QueueFull.
        """
        await self._take_place(size)
        loop = asyncio.get_running_loop()
        try:
            future = self._pool.submit(function, *arguments)
        except RuntimeError:  # closed meanwhile
            self._give_place_back()
            raise
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._give_place_back))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Waits for nothing: what still runs ends by its own bounds."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _take_place(self, size: int) -> None:
        if self._num_running < self._num_threads:
            self._num_running += 1
            return
        if sum(not place.done() for _, _, place in self._waiting) >= self._max_waiting:
            raise QueueFull(
                f"Too many requests wait for {self._name} already; try again later.",
                retry_after_s=5,
            )
        place = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (size, next(self._numbers), place))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._give_place_back()  # it was handed over just before
            raise

    def _give_place_back(self) -> None:
        while self._waiting:
            _, _, place = heapq.heappop(self._waiting)
            if not place.done():
                place.set_result(None)
                return
        self._num_running -= 1


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
