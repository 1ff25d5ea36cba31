"""GET /v1/requests: the requests that are being answered. DELETE /v1/requests/{id} ends one, GET
/v1/requests/{id}/events reads one that runs in the background.

Whoever has a key sees the requests with that key. Without keys, only those may list and end them
who may manage models. For one in the background it is enough to know its id: its client, wherever
that is, has no other way to read on or to end it.
"""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.http.background import BackgroundAnswer, BackgroundAnswers, follow
from localinfra.api.http.errors import json_response
from localinfra.api.http.managing import check_has_own
from localinfra.api.http.running import Running, RunningRequest
from localinfra.api.http.state import AppState, RequestState
from localinfra.errors import NotFound


class RunningList(msgspec.Struct, frozen=True):
    data: list[RunningRequest]
    object: str = "list"


class RequestsCancelled(msgspec.Struct, frozen=True):
    id: str
    cancelled: int  # requests with this id
    object: str = "request"


async def list_requests(request: Request) -> Response:
    """Lists the requests that are being answered: those with the same key."""
    check_has_own(request)
    running = AppState.of(request.app).store(Running)
    return json_response(RunningList(running.of(RequestState.of(request.scope).caller)))


async def cancel_request(request: Request) -> Response:
    """Ends a running request with the same key."""
    running, id = AppState.of(request.app).store(Running), request.path_params["id"]
    if background_of(request) is None:
        check_has_own(request)
    number = running.cancel(id, RequestState.of(request.scope).caller)
    if not number:
        raise NotFound(f"No request with the id {id[:100]!r} is running, or no longer.")
    return json_response(RequestsCancelled(id, number))


async def follow_request(request: Request) -> Response:
    """Reads the events of a request in the background.

    It was sent with `background: true`, and is found by its `x-request-id`. Its events so far come
    first, then those to come. Any number of clients may read them, again and again, for
    `events_kept_s` after the end."""
    background = background_of(request)
    if background is None:
        raise NotFound(
            f"No request with the id {request.path_params['id'][:100]!r} runs in the background, "
            "or its events are no longer kept."
        )
    await background.begun()
    return follow(request, background, request.query_params.get("starting_after"))


def background_of(request: Request) -> BackgroundAnswer | None:
    """The request in the path, if it runs in the background or did so."""
    backgrounds = AppState.of(request.app).store(BackgroundAnswers)
    return backgrounds.find(request.path_params["id"], RequestState.of(request.scope).caller)
