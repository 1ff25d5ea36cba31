"""The thread that paints, one batch of images at a time; the one place where it meets asyncio.

Requests take turns batch by batch, so that one for ten does not keep the others waiting for all.
"""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from localinfra.errors import ApiError, EngineFailed, ModelUnavailable, QueueFull
from localinfra.image.request import Event, Finished, ImageRequest
from localinfra.watchdog import Pulse

logger = logging.getLogger(__name__)

CLOSE_LIMIT_S = 6.0  # for the step under way to end


class Cancelled(Exception):
    """Nobody wants the image any more."""


class Painter(Protocol):
    """Makes images. One thread at a time."""

    def images_at_once(self, request: ImageRequest) -> int:
        """How many images of it are best made together."""

    def patience(self, request: ImageRequest, num_images: int) -> int:
        """By how much longer than usual a step may take, as a factor."""

    def paint(
        self, request: ImageRequest, images: Sequence[int], tell: Callable[[Event], None]
    ) -> Sequence[object]:
        """The pictures of these numbers. Calls `tell` at each step of each, and lets through what
        it raises, after which it can paint again."""

    def close(self) -> None: ...


class PaintJob:
    """One request. The loop and the thread share nothing but `is_cancelled` and the events."""

    def __init__(self, request: ImageRequest, loop: asyncio.AbstractEventLoop):
        self.request = request
        self.is_cancelled = False
        self.next_image = 0  # the thread's
        self.events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self._loop = loop

    def put(self, event: Event | Exception) -> None:
        """From the thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)


class ImageWorker:
    """Runs one painter on a thread of its own until `close`."""

    def __init__(self, painter: Painter, *, name: str, max_waiting: int):
        """`max_waiting` requests may wait or be painted at once."""
        self._painter = painter
        self._name = name
        self._max_waiting = max_waiting
        self._num_waiting = 0  # the event loop's
        self._is_closed = False
        self._fault: str | None = None  # why the thread has ended
        self._pulse = Pulse()  # the thread's
        self._arrivals: deque[PaintJob] = deque()
        self._work = threading.Semaphore(0)
        self._turns: deque[PaintJob] = deque()  # the thread's
        self._thread = threading.Thread(target=self._run, name=f"image {name}", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        return self._num_waiting

    @property
    def fault(self) -> str | None:
        """Why nothing is painted any more though nobody closed it; None while all is well."""
        if self._fault or self._is_closed or self._thread.is_alive():
            return self._fault
        return "the thread that paints has ended"

    @property
    def pulse(self) -> Pulse:
        """What the thread is at, for a watchdog."""
        return self._pulse

    def check_queue(self) -> None:
        """Raises QueueFull where too many wait already."""
        if self._num_waiting >= self._max_waiting:
            raise QueueFull(
                f"{self._name} has {self._num_waiting} requests waiting; try again later.",
                retry_after_s=10,
            )

    def events(self, request: ImageRequest) -> "Painting":
        """Submits the request. Event loop only. Raises QueueFull, ModelUnavailable when closed."""
        self.check_queue()
        job = PaintJob(request, asyncio.get_running_loop())
        self._arrivals.append(job)
        self._work.release()
        if self._is_closed:  # asked last: the thread may have looked for the last time
            raise closed(self._name)
        self._num_waiting += 1
        return Painting(job, self._left)

    def _left(self) -> None:
        """A request is over, however it went."""
        self._num_waiting -= 1

    def close(self, limit_s: float = CLOSE_LIMIT_S) -> None:
        """Stops at the next step; whoever still waits is told. A step that does not end within the
        limit is left to itself."""
        self._is_closed = True
        self._work.release()
        self._thread.join(limit_s)
        self._tell_all(closed(self._name))
        if self._thread.is_alive():
            logger.error("%s: a step did not end; its thread is left behind", self._name)
        else:
            self._painter.close()

    def abandon(self, reason: str) -> None:
        """Gives up a thread that hangs: whoever waits is told. Event loop only."""
        self._fault = reason
        self._is_closed = True
        self._tell_all(EngineFailed(f"{self._name} was given up: {reason}."))

    def _tell_all(self, error: ApiError) -> None:
        for job in [*self._turns, *self._arrivals]:
            job.put(error)

    # --- the thread ---

    def _run(self) -> None:
        try:
            while not self._is_closed:
                self._pulse = self._pulse.idle()
                self._work.acquire()
                self._pulse = self._pulse.next()
                self._take_arrivals()
                if self._turns and not self._is_closed:
                    self._paint(self._turns[0])
        except BaseException as error:  # not a painter's, which `_paint` answers
            logger.exception("%s: the thread died", self._name)
            self._fault = f"the thread that paints ended with {error!r:.300}"
            self._is_closed = True
            self._tell_all(EngineFailed(f"{self._name} failed; the server's log says why."))

    def _take_arrivals(self) -> None:
        while self._arrivals:
            self._turns.append(self._arrivals.popleft())

    def _paint(self, job: PaintJob) -> None:
        """The next images of the job, which then goes to the end of the line."""
        num_images = len(job.request.seeds)

        def tell(event: Event) -> None:
            if job.is_cancelled or self._is_closed:
                raise Cancelled
            self._pulse = self._pulse.computing(self._pulse.size)
            job.put(event)

        try:
            if not job.is_cancelled:
                at_once = self._painter.images_at_once(job.request)
                images = range(job.next_image, min(job.next_image + at_once, num_images))
                patience = self._painter.patience(job.request, len(images))
                self._pulse = self._pulse.computing(patience)
                pictures = self._painter.paint(job.request, images, tell)
                for image, picture in zip(images, pictures, strict=True):
                    job.put(Finished(image, picture))
                job.next_image = images.stop
        except Cancelled:
            if self._is_closed and not job.is_cancelled:
                return  # `close` tells them
        except ApiError as error:
            self._end(job, error)
            return
        except BaseException:  # panics of tokenizers' Rust are no Exception
            logger.exception("%s: an image failed", self._name)
            self._end(job, EngineFailed(f"{self._name} could not make this image."))
            return
        if job.is_cancelled or job.next_image >= num_images:
            self._turns.popleft()
            return
        self._take_arrivals()  # they have waited longer than the job for its next image
        self._turns.rotate(-1)
        self._work.release()

    def _end(self, job: PaintJob, error: Exception) -> None:
        self._turns.popleft()
        job.put(error)


class Painting:
    """An async iterator of what happens to a request's images, until all are finished.

    It has its place in the queue already. Whoever has it closes it, begun or not: that stops the
    image under way at its next step. Raises EngineFailed where painting failed, ModelUnavailable.
    """

    def __init__(self, job: PaintJob, leave: Callable[[], None]):
        self._job = job
        self._leave = leave
        self._missing = len(job.request.seeds)

    def __aiter__(self) -> "Painting":
        return self

    async def __anext__(self) -> Event:
        if not self._missing or self._job.is_cancelled:
            raise StopAsyncIteration
        event = await self._job.events.get()
        if isinstance(event, Exception):
            raise event
        self._missing -= isinstance(event, Finished)
        return event

    async def aclose(self) -> None:
        if not self._job.is_cancelled:
            self._job.is_cancelled = True
            self._leave()


def closed(name: str) -> ModelUnavailable:
    return ModelUnavailable(f"{name} has just been unloaded; try again.", "model", 1)
