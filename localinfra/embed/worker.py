"""The threads that compute: requests in, rows out; the one place where they meet asyncio."""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from localinfra.embed.batcher import Batcher, Job, Part
from localinfra.embed.encoder import Encoder, Rows, Tokens
from localinfra.errors import EngineFailed, ModelUnavailable, QueueFull

logger = logging.getLogger(__name__)


class Waiting(NamedTuple):
    """Whoever waits for a job."""

    future: asyncio.Future[Rows]
    loop: asyncio.AbstractEventLoop


class Worker:
    """Runs one encoder, a thread for each of its lanes, until `close`."""

    def __init__(self, encoder: Encoder, *, name: str, max_waiting: int):
        """`max_waiting` requests may wait or be computed at once."""
        self.encoder = encoder
        self._name = name
        self._max_waiting = max_waiting
        self._num_waiting = 0  # the event loop's
        self._is_closed = False
        self._commands: deque[Callable[[], None]] = deque()
        self._work = threading.Semaphore(0)  # wakes a thread for each command, and for each batch
        # What the threads share.
        self._lock = threading.Lock()
        self._batcher = Batcher(encoder.batch_tokens)
        self._waiting: dict[Job, Waiting] = {}
        self._num_computing = 0
        self._threads = [
            threading.Thread(target=self._run, name=f"embed {name}", daemon=True)
            for _ in range(encoder.num_lanes)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def num_waiting(self) -> int:
        return self._num_waiting

    def check_room(self) -> None:
        """Raises QueueFull: for who has work to do before it can ask for rows."""
        if self._num_waiting >= self._max_waiting:
            raise QueueFull(
                f"{self._name} has {self._num_waiting} requests waiting; try again in a moment.",
                retry_after_s=1,
            )

    async def rows(self, texts: Sequence[Tokens]) -> Rows:
        """The rows of these texts, in their order. Leaving frees the place at the next batch.

        Raises QueueFull, EngineFailed where computing failed, ModelUnavailable while closing.
        """
        self.check_room()
        loop = asyncio.get_running_loop()
        job, future = Job(texts, self.encoder.width), loop.create_future()
        self._tell(lambda: self._add(job, Waiting(future, loop)))
        if self._is_closed:  # asked last: the threads may have looked at commands for the last time
            raise ModelUnavailable("The server is shutting down.")
        self._num_waiting += 1
        try:
            rows: Rows = await future
            return rows
        except asyncio.CancelledError:
            self._tell(lambda: self._forget(job))
            raise
        finally:
            self._num_waiting -= 1

    def close(self) -> None:
        """Ends after the batches under way; whoever still waits is told."""
        self._is_closed = True
        self._work.release(len(self._threads))
        for thread in self._threads:
            thread.join()
        self._take_commands()
        for job in list(self._waiting):
            self._fail(job, ModelUnavailable("The server is shutting down."))
        self.encoder.close()

    def _tell(self, command: Callable[[], None]) -> None:
        """Never waits: the event loop takes no lock that a thread holds."""
        self._commands.append(command)
        self._work.release()

    # --- the threads ---

    def _run(self) -> None:
        while True:
            self._work.acquire()
            if self._is_closed:
                return
            with self._lock:
                self._take_commands()
                batch = self._batcher.next() if self._batcher else []
                if self._batcher:
                    self._work.release()  # another batch, for this thread or another one
                is_alone = not self._num_computing and not self._batcher
                self._num_computing += bool(batch)
            if batch:
                self._compute(batch, is_alone)

    def _take_commands(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._commands.popleft()()

    def _add(self, job: Job, waiting: Waiting) -> None:
        self._waiting[job] = waiting
        self._batcher.add(job)

    def _forget(self, job: Job) -> None:
        self._batcher.drop(job)
        self._waiting.pop(job, None)

    def _compute(self, batch: list[Part], is_alone: bool) -> None:
        try:
            rows = self.encoder.encode([part.tokens for part in batch], is_alone=is_alone)
            if rows.shape != (len(batch), self.encoder.width):
                raise ValueError(f"rows of the shape {rows.shape}")
        except Exception:
            logger.exception("%s: a batch of %d texts failed", self._name, len(batch))
            rows = None
        with self._lock:
            self._num_computing -= 1
            if rows is None:
                for job in {id(part.job): part.job for part in batch}.values():
                    self._fail(job, EngineFailed(f"{self._name} could not compute these texts."))
                return
            for part, row in zip(batch, rows, strict=True):
                part.job.put(part.at, row)
                if not part.job.num_missing:
                    self._finish(part.job)

    def _finish(self, job: Job) -> None:
        if waiting := self._waiting.pop(job, None):
            tell(waiting, lambda: waiting.future.set_result(job.rows))

    def _fail(self, job: Job, error: Exception) -> None:
        self._batcher.drop(job)
        if waiting := self._waiting.pop(job, None):
            tell(waiting, lambda: waiting.future.set_exception(error))


def tell(waiting: Waiting, outcome: Callable[[], None]) -> None:
    """Runs `outcome` on the event loop unless nobody waits any more."""
    with contextlib.suppress(RuntimeError):  # the loop is closed
        waiting.loop.call_soon_threadsafe(lambda: None if waiting.future.done() else outcome())
