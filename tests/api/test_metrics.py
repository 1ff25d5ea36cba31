"""What the middleware records about a request, however it ends."""

import pytest
from asgi import Header, call, scope_of
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from localinfra.api.http.guard import Access, Guard
from localinfra.api.http.state import RequestState
from localinfra.api.metrics import RequestMetrics
from localinfra.config.settings import ServerSettings
from localinfra.metrics import Metrics

HOST = ("host", "localhost")


async def answer(request: Request) -> Response:
    RequestState.of(request.scope).model = "org/name"
    return PlainTextResponse("inside", 201)


async def fail(request: Request) -> Response:
    raise ZeroDivisionError


async def find_the_client_gone(request: Request) -> Response:
    raise ClientDisconnect


def counted(path: str, *headers: Header, api_keys: tuple[str, ...] = ()) -> str:
    """The metrics line of one request."""
    metrics = Metrics()
    app = Starlette(
        routes=[
            Route("/v1/models/{id:path}", answer),
            Route("/v1/openai/models/{id:path}", answer),
            Route("/fail", fail),
            Route("/gone", find_the_client_gone),
        ],
        middleware=[
            Middleware(RequestMetrics, metrics=metrics),
            Middleware(Guard, access=Access(ServerSettings(api_keys=api_keys))),
        ],
    )
    scope = scope_of(path=path, headers=headers or (HOST,))
    if path == "/gone":
        with pytest.raises(IndexError):  # nothing was sent
            call(app, scope)
    else:
        call(app, scope)
    lines = metrics.text().splitlines()
    assert sum("duration_seconds_count{" in line for line in lines) == 1
    [line] = [line for line in lines if line.startswith("localinfra_requests_total")]
    return line.removeprefix("localinfra_requests_total")


@pytest.mark.parametrize("path", ["/v1/models/a/b", "/v1/openai/models/a"])
def test_an_answer_counts_for_its_route_under_any_prefix(path: str) -> None:
    assert counted(path) == '{route="/v1/models/{id:path}",model="org/name",status="2xx"} 1'


def test_an_unknown_path_has_no_label() -> None:
    assert counted("/any/thing") == '{route="",model="",status="4xx"} 1'


@pytest.mark.parametrize("host", [HOST, ("host", "evil.com")], ids=["no key", "foreign host"])
def test_requests_refused_by_the_guard_count_without_a_route(host: Header) -> None:
    refused = counted("/v1/models/a", host, api_keys=("secret",))
    assert refused == '{route="",model="",status="4xx"} 1'


def test_a_failure_counts_as_the_server_error_it_becomes() -> None:
    assert counted("/fail") == '{route="/fail",model="",status="5xx"} 1'


def test_a_client_that_left_before_the_answer_has_no_status() -> None:
    assert counted("/gone") == '{route="/gone",model="",status="none"} 1'
