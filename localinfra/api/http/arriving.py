"""Starts a burst of requests a few at a time, so that other work need not wait for all of it."""

import asyncio
from collections import deque

from starlette.types import ASGIApp, Receive, Scope, Send

from localinfra.api.http.guard import OPEN_PATHS

MAX_STARTS = 4  # per turn of the event loop: starting a request takes 0.5 ms, in several steps


class Arriving:
    """ASGI middleware. Health checks do not wait."""

    def __init__(self, app: ASGIApp):
        self.app = app
        self.starts = Starts(MAX_STARTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            await self.starts.take()
        await self.app(scope, receive, send)


class Starts:
    """Up to `max_starts` in each turn of the event loop, first come, first served."""

    def __init__(self, max_starts: int):
        self._max_starts = max_starts
        self._num_left = max_starts  # in this turn
        self._is_renewed = False  # whether `_renew` is scheduled for the next turn
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        if self._num_left and not self._waiting:
            self._use()
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        await place

    def _use(self) -> None:
        self._num_left -= 1
        if not self._is_renewed:
            self._is_renewed = True
            asyncio.get_running_loop().call_soon(self._renew)

    def _renew(self) -> None:
        self._is_renewed = False
        self._num_left = self._max_starts
        while self._waiting and self._num_left:
            place = self._waiting.popleft()
            if not place.done():
                self._use()
                place.set_result(None)
