"""Threads for work that is too long for the event loop, behind a bounded queue.

Knows nothing of the work. Each kind of work has its own executor, so that none delays another.
"""

import asyncio
import contextlib
import heapq
import itertools
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

from localinfra.errors import QueueFull
from localinfra.shares import TurnNumbers, current_client, has_room
from localinfra.steps import Steps

T = TypeVar("T")

TURN_S = 0.002  # of work on the event loop
SHORT_TURNS = 5  # after which work counts as long: 10 ms, a few megabytes
AGEING = 1000  # units of size that a waiting job gains on each later arrival
LARGE_SHARE = 8  # one in so many queue places may hold a large job: one takes as long as many small

_numbers = itertools.count()  # of jobs that wait, in their order
_running = threading.local()  # `.job`: the one that this thread runs


class _Job:
    """One caller's job, waiting or running."""

    def __init__(self, is_large: bool):
        self.is_large = is_large
        self.is_abandoned = False
        self.client = current_client.get()
        self.turn = 0  # if it had to wait
        self.is_admitted = False  # after that


_Row = tuple[int, int, "asyncio.Future[None]", _Job]


class _Line:
    """Jobs that wait, the lowest rank first. Who gives up leaves it at once: if threads hang,
    nobody comes to clean up. Event loop only."""

    def __init__(self, turns: TurnNumbers):
        self._turns = turns
        self._rows: list[_Row] = []  # a heap of (rank, number, future, job)

    @property
    def clients(self) -> Counter[str]:
        """Those whose jobs wait."""
        return Counter(job.client for _, _, place, job in self._rows if not place.done())

    @property
    def first_rank(self) -> tuple[int, int] | None:
        return self._rows[0][:2] if self._rows else None

    async def wait(self, job: _Job, size: int = 0) -> None:
        """Returns once the job is admitted; it may be, too, if this is cancelled just then."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        job.turn = self._turns.number(job.client)
        row = (size + job.turn * AGEING, next(_numbers), place, job)
        heapq.heappush(self._rows, row)
        try:
            await place
        finally:
            if not job.is_admitted:
                self._leave(row)

    def _leave(self, row: _Row) -> None:
        if row in self._rows:
            self._rows.remove(row)
            heapq.heapify(self._rows)
        client = row[-1].client
        self._turns.give_up(client, (job.turn for *_, job in self._rows if job.client == client))

    def admit(self) -> _Job | None:
        """The first one whose caller has not left."""
        while self._rows:
            _, _, place, job = heapq.heappop(self._rows)
            if not place.done():
                job.is_admitted = True
                self._turns.begin(job.client, job.turn)
                place.set_result(None)
                return job
        return None


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


class _Turns:
    """Whose turn it is among works on one event loop that take longer than one."""

    def __init__(self) -> None:
        self.next = asyncio.Lock()  # the one that goes on after this turn of the loop
        self.long = asyncio.Lock()  # the one that may go on for long


# A lock that was waited for keeps its loop, but only tests have more than one.
_turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns] = weakref.WeakKeyDictionary()


async def in_turns(steps: Steps[T]) -> T:
    """The result of work that may be interrupted where it yields: other things have their turn
    every few milliseconds. However many there are, one works at a time, and one of those that are
    long, so that their memory doesn't add up."""
    if ended := _turn(steps):
        return ended.result
    turns = _turns.setdefault(asyncio.get_running_loop(), _Turns())
    for _ in range(SHORT_TURNS):
        async with turns.next:
            await give_way()
        if ended := _turn(steps):
            return ended.result
    async with turns.long:
        while True:
            async with turns.next:
                await give_way()
            if ended := _turn(steps):
                return ended.result


class _Ended(NamedTuple, Generic[T]):
    """A work's result. What ends its steps has it too, but holds the frames that it went through:
    kept in one of them, it would keep a whole body until garbage is collected."""

    result: T


def _turn(steps: Steps[T]) -> _Ended[T] | None:
    """Works for a turn. None: there is more to do."""
    started_s = time.perf_counter()
    try:
        while True:
            next(steps)
            if time.perf_counter() - started_s > TURN_S:
                return None
    except StopIteration as end:
        return _Ended(end.value)


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
        turns = TurnNumbers()
        self._small, self._large = _Line(turns), _Line(turns)
        self._pool = ThreadPoolExecutor(num_threads, name)

    @property
    def is_busy(self) -> bool:
        """Whether a job runs. Jobs wait only while others run."""
        return self._num_running > 0

    @property
    def num_waiting(self) -> int:
        return self._small.clients.total() + self._large.clients.total()

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
        finally:
            del future  # it has the error, whose traceback has this frame, and what was given

    def close(self) -> None:
        """Does not wait: running jobs have limits of their own."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _take_place(self, job: _Job, size: int) -> None:
        if self._has_room(job.is_large):
            self._start(job)
            return
        if self._is_full(job):
            raise refusal(self._name)
        try:
            await (self._large if job.is_large else self._small).wait(job, size)
        except asyncio.CancelledError:
            if job.is_admitted:  # just before
                self._give_place_back(job)
            raise

    def _is_full(self, job: _Job) -> bool:
        large = self._large.clients
        most_large = max(1, self._max_waiting // LARGE_SHARE)
        if job.is_large and not has_room(large, job.client, most_large):
            return True
        return not has_room(large + self._small.clients, job.client, self._max_waiting)

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
        while line := self._next():
            if other := line.admit():
                self._start(other)

    def _next(self) -> _Line | None:
        """The line whose first job may begin, and before that of the other one."""
        lines = [
            (rank, line)
            for line in (self._small, self._large)
            if (rank := line.first_rank) and self._has_room(line is self._large)
        ]
        return min(lines)[1] if lines else None


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
        self._line = _Line(TurnNumbers())

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Returns the function's result. Raises QueueFull if too many wait."""
        await self._take_place(_Job(is_large=False))
        work = asyncio.ensure_future(in_daemon_thread(function, *arguments, name=self._name))
        work.add_done_callback(self._leave)
        try:
            return await asyncio.shield(work)  # a thread holds its place, also if its caller leaves
        finally:
            del work  # as in `BoundedExecutor.run`

    async def _take_place(self, job: _Job) -> None:
        if self._num_free:
            self._num_free -= 1
            return
        if not has_room(self._line.clients, job.client, self._max_waiting):
            raise refusal(self._name)
        try:
            await self._line.wait(job)
        except asyncio.CancelledError:
            if job.is_admitted:  # just before
                self._give_place_back()
            raise

    def _give_place_back(self) -> None:
        if self._line.admit() is None:
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
    # The thread keeps whoever awaits it, and nobody else may. Not beyond the end: an error has the
    # frames below, and would hold itself.
    waiting = [future]

    def settle(outcome: Callable[[asyncio.Future[T], Any], None], value: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(reach, outcome, value)

    def reach(outcome: Callable[[asyncio.Future[T], Any], None], value: object) -> None:
        reached = waiting.pop()
        if not reached.done():
            outcome(reached, value)

    def work() -> None:
        try:
            result = function(*arguments)
        except Exception as error:
            settle(asyncio.Future.set_exception, error)
        except BaseException as error:
            settle(asyncio.Future.set_exception, RuntimeError(f"{error!r:.500}"))
        else:
            settle(asyncio.Future.set_result, result)

    threading.Thread(target=work, name=name, daemon=True).start()
    try:
        return await future
    finally:
        del future  # as in `BoundedExecutor.run`
