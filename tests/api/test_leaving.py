"""The work for a client that leaves is cancelled, unless its response has begun."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from localinfra.api.http.leaving import Leaving
from localinfra.api.http.running import Running

SCOPE: Scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
BODY: list[Message] = [
    {"type": "http.request", "body": b"a", "more_body": True},
    {"type": "http.request", "body": b"b", "more_body": False},
]


class Connection:
    def __init__(self) -> None:
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        for message in BODY:
            self.incoming.put_nowait(message)
        self.sent: list[Message] = []

    def leave(self) -> None:
        self.incoming.put_nowait({"type": "http.disconnect"})

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def serve(self, handler: Callable[[Request], Awaitable[Response]]) -> Awaitable[None]:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            response = await handler(Request(scope, receive, send))
            await response(scope, receive, send)

        return asyncio.ensure_future(
            Leaving(app, Running())(dict(SCOPE), self.incoming.get, self.send)
        )


def test_the_work_of_a_client_that_left_is_cancelled() -> None:
    async def test() -> None:
        connection, ended = Connection(), asyncio.Event()

        async def handler(request: Request) -> Response:
            assert await request.body() == b"ab"
            connection.leave()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            raise AssertionError

        with pytest.raises(ClientDisconnect):
            await connection.serve(handler)
        assert ended.is_set() and not connection.sent

    asyncio.run(test())


def test_a_response_that_has_begun_watches_for_itself() -> None:
    async def test() -> None:
        connection = Connection()

        class Answer(Response):
            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                connection.leave()
                while (await receive())["type"] != "http.disconnect":
                    pass
                await send({"type": "http.response.body", "body": b"tidied up"})

        async def handler(request: Request) -> Response:
            await request.body()
            return Answer()

        await connection.serve(handler)
        assert connection.sent[-1]["body"] == b"tidied up"

    asyncio.run(test())


def test_responses_and_errors_pass_through() -> None:
    async def test() -> None:
        async def answers(request: Request) -> Response:
            return Response(await request.body())

        connection = Connection()
        await connection.serve(answers)
        assert connection.sent[-1]["body"] == b"ab"

        async def fails(request: Request) -> Response:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await Connection().serve(fails)

    asyncio.run(test())
