"""Keeps the models that a request uses in memory until its response has ended."""

from starlette.types import ASGIApp, Receive, Scope, Send

from localinfra.api.http.state import RequestState
from localinfra.leases import Leases
from localinfra.runtime import Runtime


class Leasing:
    """ASGI middleware. Handlers get models from the request's `Leases` alone."""

    def __init__(self, app: ASGIApp, runtime: Runtime):
        self.app = app
        self.runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = RequestState.of(scope)
        leases = state.leases = Leases(self.runtime, state.permit)
        try:
            await self.app(scope, receive, send)
        finally:
            leases.release()
