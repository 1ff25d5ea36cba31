"""GET /v1/requests: the requests that are being answered. DELETE /v1/requests/{id} ends one.

Whoever has a key sees the requests with that key. Without keys, only those may ask who may manage
models.
"""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.http.errors import json_response
from localinfra.api.http.managing import check_may_manage
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
    check_may_manage(request)
    running = AppState.of(request.app).store(Running)
    return json_response(RunningList(running.of(RequestState.of(request.scope).caller)))


async def cancel_request(request: Request) -> Response:
    check_may_manage(request)
    running, id = AppState.of(request.app).store(Running), request.path_params["id"]
    number = running.cancel(id, RequestState.of(request.scope).caller)
    if not number:
        raise NotFound(f"No request with the id {id[:100]!r} is running, or no longer.")
    return json_response(RequestsCancelled(id, number))
