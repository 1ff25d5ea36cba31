"""In place of `Guard` where another process has checked the request: `scale/gateway.py` did.

Whoever calls the application has set id, caller and permit of its `RequestState`.
"""

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localinfra import logs
from localinfra.api.http.errors import as_api_error, error_response
from localinfra.api.http.state import RequestState
from localinfra.shares import current_client


class Vouched:
    """ASGI middleware. Renders the errors that nothing else has rendered."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = RequestState.of(scope)
        logs.request_id.set(state.id)
        current_client.set(state.caller)
        started = False

        async def reply(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, reply)
        except ClientDisconnect:
            return
        except Exception as error:
            if started:
                raise
            await error_response(as_api_error(error, scope), scope)(scope, receive, reply)
