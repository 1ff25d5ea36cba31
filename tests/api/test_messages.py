"""A failure in the middle of a stream of Anthropic's events."""

from collections.abc import AsyncGenerator

import msgspec
from asgi import call, scope_of

from localinfra.api.anthropic.messages import error_event
from localinfra.api.http.sse import NamedEvent, NamedEventStream
from localinfra.api.http.state import RequestState
from localinfra.errors import EngineFailed


async def failing() -> AsyncGenerator[NamedEvent, None]:
    yield "message_start", b"{}"
    raise EngineFailed("out of memory")


def test_a_failure_is_an_event_in_the_shape_of_their_errors() -> None:
    async def app(scope, receive, send):  # type: ignore[no-untyped-def]
        await NamedEventStream(failing(), error_event)(scope, receive, send)

    scope = scope_of("POST", "/v1/messages")
    RequestState.of(scope).id = "id-7"
    *_, name, data = call(app, scope).body.decode().rstrip("\n").split("\n")
    assert name == "event: error"
    error = {"message": "out of memory", "type": "api_error", "code": "engine_failed"}
    assert msgspec.json.decode(data.removeprefix("data: ")) == {
        "type": "error",
        "error": {**error, "param": None},
        "request_id": "id-7",
    }
