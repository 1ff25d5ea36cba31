"""Submitted requests as seen by the event loop; the engine's thread uses only `call`, and runs what
is sent to it.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection
from typing import TypeVar

from localinfra.engine.backend import DecodeFailed
from localinfra.engine.request import GenerationRequest, TokenEvent
from localinfra.engine.sequence import Computed, Group, Sequence
from localinfra.errors import ApiError, EngineFailed
from localinfra.logs import about, request_id

logger = logging.getLogger(__name__)


class Generation:
    """An async iterator over the events of requests that are answered together, by step.

    Choices are numbered consecutively across the requests. Must be closed (`async with` or
    `close`), which frees the slots of its choices at the next step.
    """

    def __init__(
        self,
        requests: list[GenerationRequest],
        retire: Callable[[Sequence], None],
        send: Callable[[Callable[[], None]], bool],
    ):
        """`retire` removes a sequence, on the engine's thread; `send` runs a function there before
        the next step, and returns False if the engine has ended."""
        self.requests = requests
        self.group = Group(requests[0].client, request_id.get())
        self.sequences: list[Sequence] = []  # touched by the engine's thread alone
        self._retire_sequence = retire
        self._send = send
        self.loop = asyncio.get_running_loop()
        self._events: deque[TokenEvent] = deque()
        self._arrived = asyncio.Event()
        self.num_choices = sum(request.params.num_choices for request in requests)
        self._open = set(range(self.num_choices))
        self._error: Exception | None = None
        self._computed: asyncio.Future[list[Computed]] | None = None  # once somebody asks

    @property
    def num_waiting(self) -> int:
        """Choices that never had a slot."""
        return min(len(self._open), self.num_choices - self.group.num_started)

    async def __aenter__(self) -> "Generation":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops all choices that are not complete. Idempotent."""
        choices, self._open = self._open, set()
        if choices:
            self._send(lambda: self._retire(choices))

    async def computed(self) -> list[Computed]:
        """What was computed for each choice; close it before, so that no step computes more. Empty
        if the engine has failed or ended: nobody is to pay for that."""
        self._computed = self.loop.create_future()
        has_failed = self._error is not None and not is_clients(self._error)
        if has_failed or not self._send(self._report):
            return []
        return await self._computed

    def _tell(self, computed: list[Computed]) -> None:
        if self._computed is not None and not self._computed.done():
            self._computed.set_result(computed)

    async def __aiter__(self) -> AsyncGenerator[list[TokenEvent], None]:
        """Yields all events so far, once there are any. Raises the error of a failed request."""
        while self._open:
            await self._arrived.wait()
            self._arrived.clear()
            events = [event for event in self._events if event.choice in self._open]
            self._events.clear()
            if self._error is not None:
                raise self._error
            self._open -= {event.choice for event in events if event.finish_reason is not None}
            if events:
                yield events

    def stop(self, choice: int) -> None:
        """Retires a choice that is complete (a stop string) or unwanted at the next step.

        The list last yielded may still hold events of it.
        """
        if choice in self._open:
            self._open.discard(choice)
            self._send(lambda: self._retire((choice,)))

    def deliver(self, events: list[TokenEvent]) -> None:
        """Called on the event loop, once per step."""
        self._events.extend(events)
        self._arrived.set()

    def fail(self, error: Exception) -> None:
        """Ends the request with an error. Called on the event loop."""
        self._error = error
        self._arrived.set()
        if not is_clients(error):
            self._tell([])

    # The engine's thread from here on.

    def _retire(self, choices: Collection[int]) -> None:
        for sequence in self.sequences:  # there are none if the request failed as it was added
            if sequence.choice in choices:
                self._retire_sequence(sequence)

    def _report(self) -> None:
        call(self.loop, self._tell, [sequence.computed for sequence in self.sequences])


def is_clients(error: Exception) -> bool:
    """Whether a request failed for its client's own reasons."""
    return isinstance(error, ApiError) and error.status < 500


def failure(error: BaseException) -> ApiError:
    """The error as its client sees it; details go to the log."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, DecodeFailed):
        return EngineFailed(str(error))
    return EngineFailed(f"The engine could not continue this request: {type(error).__name__}.")


T = TypeVar("T")


def call(loop: asyncio.AbstractEventLoop, function: Callable[[T], None], argument: T) -> None:
    """Runs `function` on the event loop, from any thread; does nothing if the loop is closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, argument)


def deliver_all(parcels: list[tuple[Generation, list[TokenEvent]]]) -> None:
    for generation, events in parcels:
        try:
            generation.deliver(events)
        except Exception:  # the others still get theirs
            logger.exception(
                "events could not be delivered", extra=about(generation.group.request_id)
            )
            generation.fail(EngineFailed("The engine's events could not be delivered."))
