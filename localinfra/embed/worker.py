"""The thread that computes: requests in, rows out; the one place where it meets asyncio."""

import asyncio
import contextlib
import logging
import queue
import threading
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
    """Runs one encoder on a thread of its own until `close`."""

    def __init__(self, encoder: Encoder, *, name: str, max_waiting: int):
        """`max_waiting` requests may wait or be computed at once."""
        self.encoder = encoder
        self._name = name
        self._max_waiting = max_waiting
        self._batcher = Batcher(encoder.batch_tokens)
        self._waiting: dict[Job, Waiting] = {}  # the thread's
        self._num_waiting = 0  # the event loop's
        self._is_closed = False
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"embed {name}", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        return self._num_waiting

    async def rows(self, texts: Sequence[Tokens]) -> Rows:
        """The rows of these texts, in their order. Leaving frees the place at the next batch.

        Raises QueueFull, EngineFailed where computing failed, ModelUnavailable while closing.
        """
        if self._is_closed:
            raise ModelUnavailable("The server is shutting down.")
        if self._num_waiting >= self._max_waiting:
            raise QueueFull(
                f"{self._name} has {self._num_waiting} requests waiting; try again in a moment.",
                retry_after_s=1,
            )
        loop = asyncio.get_running_loop()
        job, future = Job(texts, self.encoder.width), loop.create_future()
        self._commands.put(lambda: self._add(job, Waiting(future, loop)))
        if self._is_closed:  # meanwhile; the thread may have looked for the last time
            raise ModelUnavailable("The server is shutting down.")
        self._num_waiting += 1
        try:
            rows: Rows = await future
            return rows
        except asyncio.CancelledError:
            self._commands.put(lambda: self._forget(job))
            raise
        finally:
            self._num_waiting -= 1

    def close(self) -> None:
        """Ends after the batch under way; whoever still waits is told."""
        self._is_closed = True
        self._commands.put(lambda: None)  # wakes it
        self._thread.join()
        self.encoder.close()

    # --- the thread ---

    def _run(self) -> None:
        while not self._is_closed:
            self._take_commands()
            if self._batcher and not self._is_closed:
                self._compute(self._batcher.next())
        self._take_commands(may_wait=False)
        for job in list(self._waiting):
            self._fail(job, ModelUnavailable("The server is shutting down."))

    def _take_commands(self, may_wait: bool = True) -> None:
        """All that are there; waits for one where there is nothing else to do."""
        if not self._batcher and may_wait:
            self._commands.get()()
        with contextlib.suppress(queue.Empty):
            while True:
                self._commands.get_nowait()()

    def _add(self, job: Job, waiting: Waiting) -> None:
        self._waiting[job] = waiting
        self._batcher.add(job)

    def _forget(self, job: Job) -> None:
        self._batcher.drop(job)
        self._waiting.pop(job, None)

    def _compute(self, batch: list[Part]) -> None:
        try:
            rows = self.encoder.encode([part.tokens for part in batch])
        except Exception:
            logger.exception("%s: a batch of %d texts failed", self._name, len(batch))
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
