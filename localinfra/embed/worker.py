"""The compute threads of an encoder: requests in, rows out. Only here do they meet asyncio."""

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from localinfra.devices import DeviceLost, is_lost
from localinfra.embed.batcher import Batcher, BatchPart, EncodeJob
from localinfra.embed.encoder import Encoder, Rows, Tokens
from localinfra.errors import EngineFailed, ModelUnavailable, QueueFull
from localinfra.journal import Mark, StepKind
from localinfra.logs import about, request_id
from localinfra.shares import fullness, has_room
from localinfra.watchdog import Pulse

logger = logging.getLogger(__name__)

CLOSE_LIMIT_S = 6.0  # for the batches under way to end


def ignore(num_tokens: int) -> None: ...


class Waiting(NamedTuple):
    """The caller awaiting a job."""

    future: asyncio.Future[Rows]
    loop: asyncio.AbstractEventLoop
    request_id: str


class EmbedWorker:
    """Runs one encoder, a thread for each of its lanes, until `close`. Another encoder that makes
    the same vectors may replace it."""

    def __init__(self, encoder: Encoder, *, name: str, max_waiting: int):
        """`max_waiting`: requests that may wait or be computed at once."""
        self._encoder = encoder  # only the event loop and `replace` read it without the lock
        self._name = name
        self._max_waiting = max_waiting
        self._in_queue = Counter[str]()  # requests by client; the event loop's
        self._is_closed = False
        self._fault: str | None = None  # why its threads have ended
        self._commands: deque[Callable[[], None]] = deque()
        self._work = threading.Semaphore(0)  # wakes a thread for each command, and for each batch
        # Shared by the threads.
        self._lock = threading.Lock()
        self._batcher = Batcher(encoder.batch_tokens)
        self._waiting: dict[EncodeJob, Waiting] = {}
        self._num_computing: Counter[int] = Counter()  # batches, by the id of their encoder
        self._pulse = Pulse()
        self.is_device_lost = False
        self.mark = Mark()
        self._threads: list[threading.Thread] = []
        self._add_threads(encoder.num_lanes)

    def _add_threads(self, num_lanes: int) -> None:
        for _ in range(num_lanes - len(self._threads)):
            thread = threading.Thread(target=self._run, name=f"embed {self._name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    @property
    def width(self) -> int:
        """Length of a row, the same for every encoder it will have."""
        return self._encoder.width

    @property
    def fault(self) -> str | None:
        """Why the threads ended although `close` was not called; None while all is well."""
        if self._fault or self._is_closed:
            return self._fault
        is_alive = all(thread.is_alive() for thread in self._threads)
        return None if is_alive else "a thread that computes has ended"

    @property
    def pulse(self) -> Pulse:
        """Progress of the threads, for a watchdog; a hanging one shows once the others idle."""
        return self._pulse

    @property
    def num_waiting(self) -> int:
        return self._in_queue.total()

    def check_room(self, client: str = "") -> None:
        """Raises QueueFull; for callers with work to do before they can ask for rows."""
        if not has_room(self._in_queue, client, self._max_waiting):
            raise QueueFull(
                f"{self._name}: {fullness(self._in_queue, client)}; try again in a moment.",
                retry_after_s=1,
            )

    async def rows(
        self, texts: Sequence[Tokens], client: str = "", left: Callable[[int], None] = ignore
    ) -> Rows:
        """The rows of these texts, in their order. Cancelling frees the place at the next batch;
        `left` then gets the number of tokens that were computed, those of a batch under way too.

        Raises QueueFull, EngineFailed if computing failed, and ModelUnavailable while closing.
        """
        self.check_room(client)
        loop = asyncio.get_running_loop()
        job, future = EncodeJob(texts, self.width), loop.create_future()
        # First, so that it is told of any failure.
        self._waiting[job] = Waiting(future, loop, request_id.get())
        self._tell(lambda: self._batcher.add(job))
        if self._is_closed:  # checked last: the threads may not look at commands again
            self._waiting.pop(job, None)
            raise closed(self._fault)
        self._in_queue[client] += 1
        try:
            rows: Rows = await future
            return rows
        except asyncio.CancelledError:
            self._tell(lambda: self._forget(job))
            left(job.num_computed_tokens)
            raise
        finally:
            self._in_queue[client] -= 1

    def replace(self, encoder: Encoder) -> None:
        """Uses this encoder from the next batch on; it must give the same rows on at least as many
        lanes. The old one is closed once its last batch has ended. Any thread."""
        assert encoder.width == self.width and encoder.num_lanes >= self._encoder.num_lanes
        with self._lock:
            leaving = encoder
            if not self._is_closed:
                leaving, self._encoder = self._encoder, encoder
                self._batcher.batch_tokens = encoder.batch_tokens
                self._add_threads(encoder.num_lanes)
            is_used = self._num_computing[id(leaving)] > 0  # then its last batch closes it
        if not is_used:
            leaving.close()

    def close(self, limit_s: float = CLOSE_LIMIT_S) -> None:
        """Ends after the batches under way, and fails waiting requests. A batch that does not end
        within the limit is left behind."""
        self._is_closed = True
        self._work.release(len(self._threads))
        ends_at = time.monotonic() + limit_s
        for thread in self._threads:
            thread.join(max(0.0, ends_at - time.monotonic()))
        with self._lock:
            self._fail_all(closed(self._fault))
        if any(thread.is_alive() for thread in self._threads):
            logger.error("%s: a batch did not end; its thread is left behind", self._name)
        else:
            self._encoder.close()

    def abandon(self, reason: str) -> None:
        """Gives up threads that hang and fails waiting requests. Event loop only."""
        self._fault = reason
        self._is_closed = True
        with self._lock:  # never held while computing
            self._fail_all(EngineFailed(f"{self._name} was given up: {reason}."))
        self._work.release(len(self._threads))

    def _tell(self, command: Callable[[], None]) -> None:
        """Never blocks: the event loop takes no lock that a thread holds."""
        self._commands.append(command)
        self._work.release()

    # --- the threads ---

    def _run(self) -> None:
        try:
            while not self._is_closed:
                self._work.acquire()
                if not self._is_closed:
                    self._round()
        except BaseException as error:  # not an encoder's error, which `_compute` handles
            logger.exception("%s: a thread died", self._name)
            with self._lock:
                self._fault = f"a thread that computes ended with {error!r:.300}"
                self._is_closed = True
                self._fail_all(EngineFailed(f"{self._name} failed; the server's log says why."))
            self._work.release(len(self._threads))

    def _round(self) -> None:
        with self._lock:
            self._take_commands()
            batch = self._batcher.next() if self._batcher else []
            if self._batcher:
                self._work.release()  # another batch, for this thread or another one
            is_alone = not self._num_computing.total() and not self._batcher
            encoder = self._encoder
            if batch:
                self._num_computing[id(encoder)] += 1
                self._pulse = self._pulse.computing()
        if batch:
            self._compute(encoder, batch, is_alone)

    def _take_commands(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._commands.popleft()()

    def _forget(self, job: EncodeJob) -> None:
        self._batcher.drop(job)
        self._waiting.pop(job, None)

    def _compute(self, encoder: Encoder, batch: list[BatchPart], is_alone: bool) -> None:
        rows: Rows | None = None
        self.mark.note(StepKind.EMBED)
        try:
            rows = encoder.encode([part.tokens for part in batch], is_alone=is_alone)
            if rows.shape != (len(batch), encoder.width):
                raise ValueError(f"rows of the shape {rows.shape}")
        except BaseException as error:  # a library's panic is no Exception
            self.is_device_lost |= is_lost(error)
            waiting = [self._waiting.get(part.job) for part in batch]
            ids = dict.fromkeys(one.request_id for one in waiting if one)
            extra = about(*ids)
            logger.exception("%s: a batch of %d texts failed", self._name, len(batch), extra=extra)
            rows = None
        with self._lock:
            self._num_computing[id(encoder)] -= 1
            is_idle = not self._num_computing.total()
            if is_idle:
                self.mark.note(StepKind.IDLE)
            self._pulse = self._pulse.idle() if is_idle else self._pulse.computing()
            is_left = encoder is not self._encoder and not self._num_computing[id(encoder)]
            self._deliver(batch, rows)
        if is_left:
            encoder.close()
        if self.is_device_lost:
            raise DeviceLost("its device computes nothing more; the log has the first error")

    def _deliver(self, batch: list[BatchPart], rows: Rows | None) -> None:
        if rows is None:
            for job in {id(part.job): part.job for part in batch}.values():
                self._fail(job, EngineFailed(f"{self._name} could not compute these texts."))
                self._batcher.drop(job)
            return
        for part, row in zip(batch, rows, strict=True):
            part.job.put(part.at, row)
            if not part.job.num_missing:
                self._finish(part.job)

    def _finish(self, job: EncodeJob) -> None:
        if waiting := self._waiting.pop(job, None):
            tell(waiting, lambda: waiting.future.set_result(job.rows))

    def _fail_all(self, error: Exception) -> None:
        with contextlib.suppress(Exception):  # the batcher may be in pieces
            self._take_commands()
        for job in list(self._waiting):
            self._fail(job, error)

    def _fail(self, job: EncodeJob, error: Exception) -> None:
        if waiting := self._waiting.pop(job, None):
            tell(waiting, lambda: waiting.future.set_exception(error))


def closed(fault: str | None) -> ModelUnavailable:
    if fault:
        return ModelUnavailable(
            "The model has just failed; try again, it is loaded anew.", "model", 1
        )
    return ModelUnavailable("The server is shutting down.")


def tell(waiting: Waiting, outcome: Callable[[], None]) -> None:
    """Runs `outcome` on the event loop if the caller still waits."""
    with contextlib.suppress(RuntimeError):  # the loop is closed
        waiting.loop.call_soon_threadsafe(lambda: None if waiting.future.done() else outcome())
