"""The thread that paints, one image at a time; the one place where it meets asyncio.

Requests take turns image by image, so that one for ten does not keep the others waiting for all.
"""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from localinfra.errors import ApiError, EngineFailed, ModelUnavailable, QueueFull
from localinfra.image.request import Event, Finished, ImageRequest

logger = logging.getLogger(__name__)


class Cancelled(Exception):
    """Nobody wants the image any more."""


class Painter(Protocol):
    """Makes images. One thread at a time."""

    def paint(self, request: ImageRequest, image: int, tell: Callable[[Event], None]) -> object:
        """The picture `image` of the request. Calls `tell` at each step, and lets through what it
        raises, after which it can paint again."""

    def close(self) -> None: ...


class Job:
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


class Worker:
    """Runs one painter on a thread of its own until `close`."""

    def __init__(self, painter: Painter, *, name: str, max_waiting: int):
        """`max_waiting` requests may wait or be painted at once."""
        self._painter = painter
        self._name = name
        self._max_waiting = max_waiting
        self._num_waiting = 0  # the event loop's
        self._is_closed = False
        self._arrivals: deque[Job] = deque()
        self._work = threading.Semaphore(0)
        self._turns: deque[Job] = deque()  # the thread's
        self._thread = threading.Thread(target=self._run, name=f"image {name}", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        return self._num_waiting

    async def events(self, request: ImageRequest) -> AsyncGenerator[Event, None]:
        """What happens to the request's images, until all are finished. Closing the generator
        stops the one under way at its next step.

        Raises QueueFull, ModelUnavailable while closing, EngineFailed where painting failed.
        """
        if self._num_waiting >= self._max_waiting:
            raise QueueFull(
                f"{self._name} has {self._num_waiting} requests waiting; try again later.",
                retry_after_s=10,
            )
        job = Job(request, asyncio.get_running_loop())
        self._arrivals.append(job)
        self._work.release()
        if self._is_closed:  # asked last: the thread may have looked for the last time
            raise ModelUnavailable("The server is shutting down.")
        self._num_waiting += 1
        try:
            missing = len(request.seeds)
            while missing:
                event = await job.events.get()
                if isinstance(event, Exception):
                    raise event
                missing -= isinstance(event, Finished)
                yield event
        finally:
            job.is_cancelled = True
            self._num_waiting -= 1

    def close(self) -> None:
        """Stops at the next step; whoever still waits is told."""
        self._is_closed = True
        self._work.release()
        self._thread.join()
        for job in [*self._turns, *self._arrivals]:
            job.put(ModelUnavailable("The server is shutting down."))
        self._painter.close()

    # --- the thread ---

    def _run(self) -> None:
        while not self._is_closed:
            self._work.acquire()
            self._take_arrivals()
            if self._turns and not self._is_closed:
                self._paint(self._turns[0])

    def _take_arrivals(self) -> None:
        while self._arrivals:
            self._turns.append(self._arrivals.popleft())

    def _paint(self, job: Job) -> None:
        """The next image of the job, which then goes to the end of the line."""
        image = job.next_image

        def tell(event: Event) -> None:
            if job.is_cancelled or self._is_closed:
                raise Cancelled
            job.put(event)

        try:
            if not job.is_cancelled:
                picture = self._painter.paint(job.request, image, tell)
                job.put(Finished(image, picture))
        except Cancelled:
            if self._is_closed and not job.is_cancelled:
                return  # `close` tells them
        except ApiError as error:
            self._end(job, error)
            return
        except Exception:
            logger.exception("%s: an image failed", self._name)
            self._end(job, EngineFailed(f"{self._name} could not make this image."))
            return
        job.next_image += 1
        self._turns.popleft()
        if not job.is_cancelled and job.next_image < len(job.request.seeds):
            self._take_arrivals()  # they have waited longer than the job for its next image
            self._turns.append(job)
            self._work.release()

    def _end(self, job: Job, error: Exception) -> None:
        self._turns.popleft()
        job.put(error)
