"""Answers that go on without their client, and their events for whoever reads them later.

Event loop only. Knows no answer's content.
"""

import asyncio
import functools
import math
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localinfra.api.http.errors import as_api_error, error_response
from localinfra.api.http.event_log import EventLog
from localinfra.api.http.sse import FramedStream, Stream
from localinfra.api.http.state import AppState, RequestState
from localinfra.config.settings import ServerSettings
from localinfra.errors import ApiError, InvalidRequest, QueueFull
from localinfra.shares import Holdings

RETRY_AFTER_S = 5
NUMBER = re.compile(r"\d{1,15}", re.ASCII)
OWN_BYTES = 4096  # about what one takes beside its events
DROPPED_SHARE = 8  # of a log that is full, an eighth goes at once: dropping moves those that stay

Respond = Callable[[Request], Awaitable[Response]]


class BackgroundAnswer:
    """One answer: the client of its own stream, which it reads into a log."""

    def __init__(
        self,
        id: str,
        caller: str,
        grew: Callable[["BackgroundAnswer", int], None],
        ended: Callable[["BackgroundAnswer"], None],
    ):
        """`grew` is called with the size of what was just added to the log."""
        self.id = id
        self.caller = caller
        self.log = EventLog()
        self.headers: dict[str, str] = {}  # that its readers get too
        self.ended_at = math.inf  # of the event loop's clock
        self._grew = grew
        self._ended = ended
        self._scope: Scope | None = None  # while it runs
        self._gone = asyncio.Event()
        self._begun = asyncio.Event()
        self._is_read = False  # the body, which is empty: the first request had it
        self._error: ApiError | None = None  # why there is no stream
        self._task: asyncio.Task[None] | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.caller, self.id

    @property
    def is_running(self) -> bool:
        return not self.log.has_ended

    def start(self, scope: Scope, respond: Respond, around: Callable[[ASGIApp], ASGIApp]) -> None:
        """`scope`: of the request that it was asked by. Both are only kept until the end: they hold
        the request's head and body."""
        self._scope = RequestState.detached(scope)
        app = around(functools.partial(self._answer, respond))
        self._task = asyncio.create_task(self._run(app, self._scope))
        RequestState.of(scope).background = self._task, RequestState.of(self._scope)

    async def begun(self) -> None:
        """Returns once there is a stream. Raises the error for which there is none."""
        await self._begun.wait()
        if self._error is not None:
            raise without_frames(self._error)

    async def cancel(self) -> None:
        """Ends it with `RequestCancelled`, unless it has ended. Returns after its end."""
        if self._scope is not None:
            RequestState.of(self._scope).is_cancelled = True
        self._gone.set()
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception as error:
            if not self._begun.is_set():
                self._error = as_api_error(error, scope)
        finally:
            self._scope = None
            self.ended_at = asyncio.get_running_loop().time()
            self.log.end()
            self._begun.set()
            self._ended(self)

    async def _answer(self, respond: Respond, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # the body: from its end on, `Leaving` sees a client that leaves
        try:
            response = await respond(Request(scope))
        except Exception as error:
            self._error = as_api_error(error, scope)
            response = error_response(self._error, scope)
        if isinstance(response, Stream):
            response.keepalive_s = math.inf  # readers get heartbeats of their own
        await response(scope, receive, send)

    async def _receive(self) -> Message:
        if not self._is_read:
            self._is_read = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            own = ((name.decode(), value.decode()) for name, value in message["headers"])
            self.headers = {name: value for name, value in own if name.startswith("x-localinfra-")}
            self._begun.set()
        elif message["body"] and self._error is None:
            self.log.append(message["body"])
            self._grew(self, len(message["body"]))


class BackgroundAnswers:
    """Those that run, and those whose events are still kept."""

    def __init__(self, around: Callable[[ASGIApp], ASGIApp]):
        """`around`: the middleware that their work needs, as a request's does."""
        self._around = around
        # By caller and id.
        self._running: dict[tuple[str, str], BackgroundAnswer] = {}
        # The first to end first.
        self._ended: OrderedDict[tuple[str, str], BackgroundAnswer] = OrderedDict()
        self._held = Holdings()  # bytes
        self._settings = ServerSettings()

    def apply(self, settings: ServerSettings) -> None:
        self._settings = settings

    def start(self, id: str, scope: Scope, respond: Respond) -> BackgroundAnswer:
        """Has `respond`, given a request of its own, make a stream and sends that to a log. The
        request of `scope` itself has nothing more to do. Raises InvalidRequest and QueueFull."""
        self._drop_old()
        key = RequestState.of(scope).caller, id
        self._check_room(key)
        if key in self._ended:
            self._drop(key)
        background = BackgroundAnswer(id, key[0], self._count, self._keep)
        self._running[key] = background
        self._held.add(background.caller, OWN_BYTES)
        background.start(scope, respond, self._around)
        return background

    def find(self, id: str, caller: str) -> BackgroundAnswer | None:
        """None also for another caller's, so that ids can't be probed."""
        self._drop_old()
        return self._running.get((caller, id)) or self._ended.get((caller, id))

    async def remove(self, background: BackgroundAnswer) -> None:
        """Cancels it and drops its events."""
        await background.cancel()
        if self._ended.get(background.key) is background:
            self._drop(background.key)

    async def close(self) -> None:
        for background in list(self._running.values()):
            await background.cancel()

    def _check_room(self, key: tuple[str, str]) -> None:
        caller, id = key
        if key in self._running:
            raise InvalidRequest(
                f"A request with the id {id!r} is running in the background: send another "
                "x-request-id.",
                "x-request-id",
            )
        num_own = sum(one.caller == caller for one in self._running.values())
        if num_own >= self._settings.max_background:
            raise QueueFull(
                f"{num_own} answers with this key run in the background, as many as may: wait "
                "for one to end, or cancel one.",
                "background",
                RETRY_AFTER_S,
            )

    def _count(self, grown: BackgroundAnswer, num_bytes: int) -> None:
        """Keeps the events within the limits on their bytes."""
        self._held.add(grown.caller, num_bytes)
        most = self._settings.max_answer_event_bytes
        if grown.log.num_bytes > most:
            self._drop_events(grown, num_bytes + most // DROPPED_SHARE)
        self._make_room(self._settings.max_event_bytes)

    def _keep(self, ended: BackgroundAnswer) -> None:
        self._ended[ended.key] = self._running.pop(ended.key)
        self._make_room(self._settings.max_event_bytes)

    def _make_room(self, most: int) -> None:
        """Who has most loses first its ended answers, then the oldest events of those that run."""
        while (excess := self._held.total - most) > 0:
            caller = self._held.greediest
            if ended := next((key for key in self._ended if key[0] == caller), None):
                self._drop(ended)
                continue
            own = (one for one in self._running.values() if one.caller == caller)
            largest = max(own, key=lambda one: one.log.num_bytes)
            if not self._drop_events(largest, excess + most // DROPPED_SHARE):
                return  # they have none

    def _drop_events(self, background: BackgroundAnswer, num_bytes: int) -> int:
        dropped = background.log.drop(num_bytes)
        self._held.add(background.caller, -dropped)
        return dropped

    def _drop_old(self) -> None:
        oldest = asyncio.get_running_loop().time() - self._settings.events_kept_s
        while self._ended and next(iter(self._ended.values())).ended_at < oldest:
            self._drop(next(iter(self._ended)))

    def _drop(self, key: tuple[str, str]) -> None:
        self._held.add(key[0], -OWN_BYTES - self._ended.pop(key).log.num_bytes)


def without_frames(error: ApiError) -> ApiError:
    """The same error, not raised yet: the frames that it came through hold the request's body."""
    same = type(error).__new__(type(error), *error.args)
    vars(same).update(vars(error))
    return same


def follow(request: Request, background: BackgroundAnswer, after: str | None = None) -> Response:
    """The events after number `after`, or all, then those to come. Raises InvalidRequest if `after`
    is no number, or the events are not all here."""
    if after and not NUMBER.fullmatch(after):
        raise InvalidRequest(
            "starting_after must be the number of an event, from 0 on.", "starting_after"
        )
    start = int(after) + 1 if after else 0
    background.log.check(start)
    keepalive_s = AppState.of(request.app).runtime.settings.keepalive_s
    return FramedStream(background.log.follow(start), background.headers, keepalive_s)
