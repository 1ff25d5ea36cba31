"""The line of the log for a request, through the application."""

import logging
from collections.abc import AsyncGenerator

import pytest
from asgi import Header, call, scope_of
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from localinfra.api.app import create_app
from localinfra.api.call import Call
from localinfra.api.http.body import BodyLimits, Decoded, receive_body
from localinfra.api.http.sse import EventStream
from localinfra.config.settings import ServerSettings
from localinfra.errors import QueueFull
from localinfra.models.catalog import Catalog
from localinfra.runtime import Runtime

HOST = ("host", "localhost:8000")
JSON = ("content-type", "application/json")
ID = ("x-request-id", "id-7")


async def fail(request: Request) -> Response:
    raise ZeroDivisionError("private detail")


async def break_off(request: Request) -> Response:
    await receive_body(request, BodyLimits(1000, 9.0))

    async def events() -> AsyncGenerator[bytes, None]:
        yield b"1"
        raise QueueFull("in the middle")

    return EventStream(events())


@pytest.fixture
def app() -> Starlette:
    app = create_app(Runtime(ServerSettings(api_keys=("secret",)), Catalog({})))
    app.router.routes += [Route("/fail", fail), Route("/break-off", break_off)]
    return app


def line_of(
    app: Starlette,
    caplog: pytest.LogCaptureFixture,
    method: str,
    path: str,
    *headers: Header,
    body: bytes = b"{}",
) -> str:
    caplog.set_level(logging.DEBUG)
    key = ("authorization", "Bearer secret")
    try:
        call(app, scope_of(method, path, [HOST, key, ID, *headers]), (body,))
    except IndexError:
        pass
    records = [record for record in caplog.records if record.name == "localinfra.requests"]
    [record] = records
    line = record.getMessage()
    assert "id=id-7" in line and "client=127.0.0.1:50000" in line and line.isprintable()
    assert "secret" not in caplog.text.replace("secret sauce", "")
    return f"{record.levelname} {line}"


@pytest.mark.parametrize(
    ("method", "path", "body", "words"),
    [
        ("POST", "/v1/chat/completions", b"{", "400 invalid_value: The body is not valid JSON"),
        ("POST", "/v1/chat/completions", b"{}", "400 invalid_value"),
        ("POST", "/v1/embeddings", b'{"model":"m","input":"x","dimensions":0}', "(dimensions)"),
        ("POST", "/v1/embeddings", b'{"model":"m","input":"x"}', "404 model_not_found (model)"),
        ("GET", "/v1/nowhere", b"", "404 not_found: There is no /v1/nowhere"),
        ("GET", "/v1/embeddings", b"", "405 method_not_allowed"),
        ("GET", "/fail", b"", "500 engine_failed"),
        ("POST", "/anthropic/v1/messages", b"[]", "400 invalid_value"),
        ("GET", "/\x1b[31m\n", b"", "404 not_found: There is no /\\x1b[31m\\n"),
    ],
)
def test_a_refused_request_has_one_line_with_its_reason(
    app: Starlette,
    caplog: pytest.LogCaptureFixture,
    method: str,
    path: str,
    body: bytes,
    words: str,
) -> None:
    line = line_of(app, caplog, method, path, JSON, body=body)
    assert line.startswith("WARNING") and words in line


def test_a_wrong_key_and_a_foreign_page_have_a_line(
    app: Starlette, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = ("origin", "https://evil.com")
    assert "403 forbidden" in line_of(app, caplog, "GET", "/v1/models", foreign)
    caplog.clear()
    call(app, scope_of("GET", "/v1/models", [HOST, ("authorization", "Bearer guess")]))
    assert "401 invalid_api_key" in caplog.text and "guess" not in caplog.text


def test_an_error_within_a_stream_has_a_line(
    app: Starlette, caplog: pytest.LogCaptureFixture
) -> None:
    line = line_of(app, caplog, "GET", "/break-off")
    assert line.startswith("WARNING") and "200 queue_full: in the middle" in line


def test_bodies_are_never_logged(app: Starlette, caplog: pytest.LogCaptureFixture) -> None:
    body = b'{"model": "m", "messages": [{"role": "user", "content": "secret sauce"}], "n": -1}'
    line_of(app, caplog, "POST", "/v1/chat/completions", JSON, body=body)
    assert "secret sauce" not in caplog.text


def test_what_went_well_is_logged_at_debug_level_only(
    app: Starlette, caplog: pytest.LogCaptureFixture
) -> None:
    assert line_of(app, caplog, "GET", "/v1/models").startswith("DEBUG GET /v1/models 200")


def test_a_long_user_is_cut(app: Starlette, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    one = Call(Request({**scope_of(), "app": app}), Decoded(ServerSettings(), ()))
    one.log_user("\x00" * 2_600_000)
    one.log_user("user-7")
    first, second = [record.getMessage() for record in caplog.records]
    assert first.isprintable() and len(first) < 1000
    assert second.endswith("is for user 'user-7'")
