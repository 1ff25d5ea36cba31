"""The thread that paints, one batch of images at a time, and its only meeting point with asyncio.

Requests take turns batch by batch, so that others don't wait for all ten images of one request.
"""

import asyncio
import contextlib
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from localinfra.devices import is_lost
from localinfra.errors import ApiError, EngineFailed, ModelUnavailable, QueueFull
from localinfra.image.request import Event, Finished, ImageRequest, ImageStep
from localinfra.journal import Mark, StepKind
from localinfra.logs import about, request_id
from localinfra.shares import fullness, has_room
from localinfra.watchdog import Pulse

logger = logging.getLogger(__name__)

CLOSE_LIMIT_S = 6.0  # for the current step to end


class Cancelled(Exception):
    """The client has left, or the worker closes."""


class Painter(Protocol):
    """Makes images. One thread at a time."""

    def images_at_once(self, request: ImageRequest) -> int:
        """How many images of a request are best made together."""

    def patience(self, request: ImageRequest, num_images: int) -> int:
        """How many times longer than usual a step may take."""

    def paint(
        self, request: ImageRequest, images: Sequence[int], emit: Callable[[Event], None]
    ) -> Sequence[object]:
        """Returns the pictures of these image numbers. Calls `emit` after each step of each; if it
        raises, passes the exception on and stays usable."""

    def close(self) -> None: ...


class PaintJob:
    """One request. The loop and the thread share only `is_cancelled` and the events."""

    def __init__(self, request: ImageRequest, loop: asyncio.AbstractEventLoop):
        self.request = request
        self.request_id = request_id.get()
        self.is_cancelled = False
        self.next_image = 0  # thread only
        self.painted: Sequence[int] = ()  # the images that the thread paints now
        self.turn = 0  # thread only: when it came, or was last painted
        self.events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self._loop = loop

    def put(self, event: Event | Exception) -> None:
        """Thread only."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)


class ImageWorker:
    """Runs one painter on its own thread until `close`."""

    def __init__(self, painter: Painter, *, name: str, max_waiting: int):
        """At most `max_waiting` requests wait or are painted at a time."""
        self._painter = painter
        self._name = name
        self._max_waiting = max_waiting
        self._waiting = Counter[str]()  # requests by client; event loop only
        self._is_closed = False
        self._fault: str | None = None  # why the thread has ended
        self._pulse = Pulse()  # written by the thread
        self.is_device_lost = False
        self.mark = Mark()
        self._arrivals: deque[PaintJob] = deque()
        self._commands: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._work = threading.Semaphore(0)
        self._turns: deque[PaintJob] = deque()  # thread only, as the next two
        self._served: dict[str, int] = {}  # by client: its last turn
        self._now = 0  # counts turns
        self._thread = threading.Thread(target=self._run, name=f"image {name}", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        return self._waiting.total()

    @property
    def fault(self) -> str | None:
        """Why the worker stopped without `close`; None while all is well."""
        if self._fault or self._is_closed or self._thread.is_alive():
            return self._fault
        return "the painting thread has ended"

    @property
    def pulse(self) -> Pulse:
        """What the thread is doing, for a watchdog."""
        return self._pulse

    def check_queue(self, client: str) -> None:
        """Raises QueueFull if too many requests are waiting."""
        if not has_room(self._waiting, client, self._max_waiting):
            raise QueueFull(
                f"{self._name}: {fullness(self._waiting, client)}; try again later.",
                retry_after_s=10,
            )

    def events(
        self, request: ImageRequest, left: "Callable[[LeftOver], None] | None" = None
    ) -> "Painting":
        """Submits the request; `left` gets what was painted and not read, if its caller leaves.
        Event loop only. Raises QueueFull, or ModelUnavailable if closed."""
        client = request.client
        self.check_queue(client)
        job = PaintJob(request, asyncio.get_running_loop())
        self._arrivals.append(job)
        self._work.release()
        if self._is_closed:  # checked last: the thread may have taken its last arrivals before
            raise unloaded(self._name)
        self._waiting[client] += 1
        return Painting(job, lambda: self._left(client), left)

    def _left(self, client: str) -> None:
        """Called once when a request ends, whether finished or not."""
        self._waiting[client] -= 1

    def call(self, command: Callable[[], None]) -> None:
        """Runs the command on the painting thread, between two batches. Blocks; raises what the
        command raises, and ModelUnavailable if the worker is closed."""
        done: Future[None] = Future()
        self._commands.append((command, done))
        self._work.release()
        if self._is_closed:
            self._fail_all(unloaded(self._name))
        done.result()

    def close(self, limit_s: float = CLOSE_LIMIT_S) -> None:
        """Stops at the next step and fails waiting requests. Leaves behind a thread whose step does
        not end within the limit."""
        self._is_closed = True
        self._work.release()
        self._thread.join(limit_s)
        self._fail_all(unloaded(self._name))
        if self._thread.is_alive():
            logger.error("%s: a step did not end; its thread is left behind", self._name)
        else:
            self._painter.close()

    def abandon(self, reason: str) -> None:
        """Gives up on a hanging thread and fails waiting requests. Event loop only."""
        self._fault = reason
        self._is_closed = True
        self._fail_all(EngineFailed(f"{self._name} was stopped: {reason}."))

    def _fail_all(self, error: ApiError) -> None:
        for job in [*self._turns, *self._arrivals]:
            job.put(error)
        with contextlib.suppress(IndexError):
            while True:
                self._commands.popleft()[1].set_exception(error)

    # --- the thread ---

    def _run(self) -> None:
        try:
            while not self._is_closed:
                self._pulse = self._pulse.idle()
                self.mark.note(StepKind.IDLE)
                self._work.acquire()
                self.mark.note(StepKind.PAINT)
                self._pulse = self._pulse.next()
                self._run_commands()
                self._take_arrivals()
                if self._turns and not self._is_closed:
                    self._paint(self._next_job())
        except BaseException as error:  # not the painter's: `_paint` handles those
            logger.exception("%s: the thread died", self._name)
            self._fault = f"the painting thread ended with {error!r:.300}"
            self._is_closed = True
            self._fail_all(EngineFailed(f"{self._name} failed; the server's log says why."))

    def _run_commands(self) -> None:
        while True:
            try:
                command, done = self._commands.popleft()
            except IndexError:  # also where `_fail_all` was faster
                return
            self._pulse = self._pulse.computing()
            try:
                command()
            except Exception as error:
                done.set_exception(error)
            else:
                done.set_result(None)

    def _take_arrivals(self) -> None:
        while self._arrivals:
            job = self._arrivals.popleft()
            job.turn = self._next_turn()
            self._turns.append(job)

    def _next_turn(self) -> int:
        self._now += 1
        return self._now

    def _next_job(self) -> PaintJob:
        """Brings the job to the front whose turn it is: that of the client served longest ago."""

        def rank(at: int) -> tuple[int, int]:
            job = self._turns[at]
            return self._served.get(job.request.client, 0), job.turn

        # One step for `_fail_all`, which may look from another thread.
        self._turns.rotate(-min(range(len(self._turns)), key=rank))
        job = self._turns[0]
        self._served[job.request.client] = self._next_turn()
        return job

    def _paint(self, job: PaintJob) -> None:
        """Paints the job's next images, then moves it to the end of the queue."""
        num_images = len(job.request.seeds)

        def emit(event: Event) -> None:
            if job.is_cancelled or self._is_closed:
                raise Cancelled
            self._pulse = self._pulse.computing(self._pulse.size)
            job.put(event)

        try:
            if not job.is_cancelled:
                at_once = self._painter.images_at_once(job.request)
                images = range(job.next_image, min(job.next_image + at_once, num_images))
                job.painted = images
                patience = self._painter.patience(job.request, len(images))
                self._pulse = self._pulse.computing(patience)
                pictures = self._painter.paint(job.request, images, emit)
                for image, picture in zip(images, pictures, strict=True):
                    job.put(Finished(image, picture))
                job.next_image = images.stop
                job.painted = ()
        except Cancelled:
            if self._is_closed and not job.is_cancelled:
                return  # `close` fails the job
        except ApiError as error:
            self._end(job, error)
            return
        except BaseException as error:  # a Rust panic in tokenizers is not an Exception
            logger.exception("%s: an image failed", self._name, extra=about(job.request_id))
            self._end(job, EngineFailed(f"{self._name} could not make this image."))
            self.is_device_lost = is_lost(error)
            if self.is_device_lost:
                raise
            return
        if job.is_cancelled or job.next_image >= num_images:
            self._turns.popleft()
            return
        self._take_arrivals()  # they come before this job's next images
        job.turn = self._next_turn()
        self._work.release()

    def _end(self, job: PaintJob, error: Exception) -> None:
        self._turns.popleft()
        job.put(error)


class Painting:
    """An async iterator over the events of a request's images, until all are finished.

    It is already queued. Its owner must close it, even if it was never iterated: that stops the
    current image at its next step. Raises EngineFailed or ModelUnavailable if painting fails.
    """

    def __init__(
        self,
        job: PaintJob,
        leave: Callable[[], None],
        left: "Callable[[LeftOver], None] | None" = None,
    ):
        """`leave` is called at its end, `left` if that is not reached."""
        self._job = job
        self._leave = leave
        self._left = left
        self._missing = set(range(len(job.request.seeds)))
        self._num_steps: Counter[int] = Counter()  # that were painted, by image
        self._has_failed = False

    def __aiter__(self) -> "Painting":
        return self

    async def __anext__(self) -> Event:
        if not self._missing or self._job.is_cancelled:
            raise StopAsyncIteration
        event = await self._job.events.get()
        if isinstance(event, Exception):
            self._has_failed = True
            raise event
        self._note(event)
        return event

    def _note(self, event: Event) -> None:
        if isinstance(event, Finished):
            self._missing.discard(event.image)
        elif isinstance(event, ImageStep):
            self._num_steps[event.image] = event.number

    async def aclose(self) -> None:
        if not self._job.is_cancelled:
            self._job.is_cancelled = True
            self._leave()
            if self._left and self._missing and not self._has_failed:
                self._left(self._left_over())

    def _left_over(self) -> "LeftOver":
        num_missing = len(self._missing)
        while not self._job.events.empty():
            event = self._job.events.get_nowait()
            if isinstance(event, Exception):
                return LeftOver(0, 0.0)
            self._note(event)
        for image in self._job.painted:  # a step under way can't be stopped
            self._num_steps[image] += 1
        num_steps = max(1, self._job.request.num_steps_taken)
        done = (min(1.0, self._num_steps[image] / num_steps) for image in self._missing)
        return LeftOver(num_missing - len(self._missing), sum(done))


class LeftOver(NamedTuple):
    """What was painted for a client that has left."""

    num_images: int  # finished
    parts: float  # of others: the sum of the shares of their steps that are painted


def unloaded(name: str) -> ModelUnavailable:
    return ModelUnavailable(f"{name} has just been unloaded; try again.", "model", 1)
