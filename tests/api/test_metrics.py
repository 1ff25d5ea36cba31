"""What the middleware records about a request, however it ends."""

import pytest
from asgi import Header, call, scope_of
from metering import written
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from localinfra.api.app import create_app
from localinfra.api.http.guard import Access, Guard
from localinfra.api.http.state import RequestState
from localinfra.api.metrics import OPERATIONS, RequestMetrics, route_of
from localinfra.api.openapi.document import handler_of
from localinfra.api.openapi.operations import OPERATIONS as DOCUMENTED
from localinfra.config.settings import ServerSettings
from localinfra.errors import ApiError, QueueFull
from localinfra.metrics import Metrics
from localinfra.models.catalog import Catalog
from localinfra.runtime import Runtime

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
    lines = written(metrics).splitlines()
    assert sum("localinfra_request_duration_seconds_count" in line for line in lines) == 1
    [line] = [line for line in lines if line.startswith("localinfra_requests_total")]
    return line.removeprefix("localinfra_requests_total")


@pytest.mark.parametrize("path", ["/v1/models/a/b", "/v1/openai/models/a"])
def test_an_answer_counts_for_its_route_under_any_prefix(path: str) -> None:
    assert counted(path) == '{model="org/name",route="/v1/models/{id:path}",status="2xx"} 1.0'


def test_an_unknown_path_has_no_label() -> None:
    assert counted("/any/thing") == '{model="",route="",status="4xx"} 1.0'


@pytest.mark.parametrize("host", [HOST, ("host", "evil.com")], ids=["no key", "foreign host"])
def test_requests_refused_by_the_guard_count_without_a_route(host: Header) -> None:
    refused = counted("/v1/models/a", host, api_keys=("secret",))
    assert refused == '{model="",route="",status="4xx"} 1.0'


def test_a_failure_counts_as_the_server_error_it_becomes() -> None:
    assert counted("/fail") == '{model="",route="/fail",status="5xx"} 1.0'


def test_a_client_that_left_before_the_answer_has_no_status() -> None:
    assert counted("/gone") == '{model="",route="/gone",status="none"} 1.0'


def told(error: ApiError | None = None, tokens: int = 0, status: int | None = 200) -> list[str]:
    """OpenTelemetry's counts after a chat of 3 s whose first token came after 1 s."""
    metrics = Metrics()
    state = RequestState(model="m", error=error)
    state.progress.generated_tokens, state.progress.first_token_s = tokens, 1.0
    RequestMetrics(Starlette(), metrics).observe(state, "chat", status, 3.0)
    lines = written(metrics).splitlines()
    kept = [line for line in lines if line.startswith("gen_ai_") and "bucket" not in line]
    labels = 'gen_ai_operation_name="chat",gen_ai_provider_name="localinfra",'
    labels += 'gen_ai_request_model="m"'
    return [
        line.replace(labels, "").removeprefix("gen_ai_server_") for line in kept if "_sum" in line
    ]


def test_opentelemetry_hears_of_the_first_token_and_of_the_time_for_each_later_one() -> None:
    assert told(tokens=5) == [
        'request_duration_seconds_sum{error_type="",} 3.0',
        "time_to_first_token_seconds_sum{} 1.0",
        "time_per_output_token_seconds_sum{} 0.5",
    ]
    assert len(told(tokens=1)) == 2  # nothing came after the first


def test_opentelemetry_hears_of_errors_by_their_code() -> None:
    assert told(QueueFull("full"), tokens=5) == [
        'request_duration_seconds_sum{error_type="queue_full",} 3.0'
    ]
    [left] = told(status=None)
    assert 'error_type="client_disconnected"' in left


ONLY_READ = ("tokenize", "detokenize", "tokenizer_info", "input_tokens", "count_tokens", "compact")


def test_opentelemetry_hears_of_every_route_whose_answer_a_model_computes() -> None:
    app = create_app(Runtime(ServerSettings(), Catalog({})))
    computed = {
        route_of({"app": app, "endpoint": route.endpoint})
        for route in app.routes
        if isinstance(route, Route) and route.include_in_schema
        if DOCUMENTED[handler_of(route)].uses_model
    }
    assert OPERATIONS.keys() == {path for path in computed if not path.endswith(ONLY_READ)}
