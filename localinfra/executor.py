"""Threads for work that is too long for the event loop, with a bounded queue before them.

Knows nothing of the work. Each kind of work has an executor of its own, so that none can hold up
another's.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from localinfra.errors import QueueFull

T = TypeVar("T")


async def give_way() -> None:
    """Between two pieces of work on the event loop: what has come meanwhile is seen to. One
    sleep(0) is not enough, since it goes on before what the loop finds on its sockets then."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


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
