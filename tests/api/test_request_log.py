"""A request's log line, through the application."""

import logging
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest
from asgi import Header, call, scope_of
from metering import label
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from localinfra.api.app import create_app
from localinfra.api.call import Call
from localinfra.api.http.bodies import BodyLimits
from localinfra.api.http.body import Decoded, receive_body
from localinfra.api.http.request_log import reason
from localinfra.api.http.sse import EventStream
from localinfra.config.settings import ServerSettings
from localinfra.errors import QueueFull, UnsupportedParameter
from localinfra.logs import JsonLine, OneLine
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
    line = OneLine().format(record).partition("localinfra.requests: ")[2]
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


USER = {"role": "user", "content": "SECRET"}


@pytest.mark.parametrize(
    ("path", "fields", "words"),
    [
        ("chat/completions", {"messages": [{"role": "SECRET"}]},
         "400 invalid_value (messages[0].role): no such choice"),
        ("chat/completions", {"messages": [{**USER, "content": ["SECRET"]}]},
         "(messages[0].content[0]): expected `object`, got `str`"),
        ("chat/completions", {"messages": [USER], "tools": [{"function": {"name": "SECRET !"}}]},
         "400 invalid_value (tools[0].function.name)"),
        ("chat/completions", {"messages": [USER], "tool_choice": "SECRET"}, "(tool_choice)"),
        ("chat/completions", {"messages": [USER], "response_format": {"type": "SECRET"}},
         "400 unsupported_parameter (response_format.type)"),
        ("chat/completions", {"messages": [{**USER, "content": [{"type": "SECRET"}]}]}, "404"),
        ("chat/completions", {"messages": [USER], "chat_template_kwargs": {"messages": 1}},
         "(chat_template_kwargs)"),
        ("chat/completions", {}, "(messages): it is required"),
        ("embeddings", {"input": "SECRET"}, "404 model_not_found (model)"),
        ("responses", {"input": "a", "previous_response_id": "SECRET"},
         "404 previous_response_not_found (previous_response_id)"),
        ("responses", {"input": [{"type": "item_reference", "id": "SECRET"}]},
         "404 not_found (input[0].id)"),
        ("responses", {"input": "a", "include": ["SECRET"]}, "(include[0])"),
        ("messages", {"messages": [{**USER, "content": [{"type": "SECRET"}]}]},
         "400 unsupported_parameter (messages[0].content[0])"),
        ("images/generations", {"prompt": "a", "size": "SECRET"}, "400 invalid_value (size)"),
    ],
)  # fmt: skip
def test_a_line_has_the_place_and_the_fault_but_never_the_value(
    app: Starlette, caplog: pytest.LogCaptureFixture, path: str, fields: Any, words: str
) -> None:
    body = msgspec.json.encode({"model": "SECRET", **fields})
    assert words in line_of(app, caplog, "POST", f"/v1/{path}", JSON, body=body)
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize(
    ("param", "place"),
    [
        ("tools[0].function.parameters.properties.SECRET.not", "tools[0].function.parameters..."),
        ("tools[0].input_schema.SECRET", "tools[0].input_schema..."),
        ("response_format.json_schema.schema.$defs.SECRET",
         "response_format.json_schema.schema..."),
        ("chat_template_kwargs.SECRET", "chat_template_kwargs..."),
        ("metadata[SECRET]", "metadata..."),
        ("parameters", "parameters"),
        ("messages[0].content", "messages[0].content"),
    ],
)  # fmt: skip
def test_a_path_is_cut_before_the_clients_own_names(param: str, place: str) -> None:
    error = UnsupportedParameter("SECRET is no keyword", param)
    assert reason(error) == f"unsupported_parameter ({place})"


def test_programs_get_each_fact_by_its_name(
    app: Starlette, caplog: pytest.LogCaptureFixture
) -> None:
    line_of(app, caplog, "POST", "/v1/embeddings", JSON, body=b'{"model":"m","input":"x"}')
    [record] = [record for record in caplog.records if record.name == "localinfra.requests"]
    found = msgspec.json.decode(JsonLine().format(record))
    assert found.pop("time").endswith("+00:00") and found.pop("ms") >= 0 and found.pop("message")
    assert found == {
        "level": "warning",
        "logger": "localinfra.requests",
        "request_id": "id-7",
        "method": "POST",
        "path": "/v1/embeddings",
        "status": 404,
        "error": "model_not_found",
        "client": "127.0.0.1:50000",
        "key": label("secret"),
    }


def test_an_error_of_ours_has_the_id_that_the_client_got(
    app: Starlette, caplog: pytest.LogCaptureFixture
) -> None:
    line_of(app, caplog, "GET", "/fail")
    [record] = [record for record in caplog.records if record.exc_info]
    assert " a request failed id=id-7\n" in OneLine().format(record)


def test_other_libraries_lines_have_the_id_of_the_request_at_hand(
    app: Starlette, caplog: pytest.LogCaptureFixture
) -> None:
    lines = []

    async def warn(request: Request) -> Response:
        logging.getLogger("uvicorn.error").warning("odd")
        lines.append(OneLine().format(caplog.records[-1]))
        return Response()

    app.router.routes.append(Route("/warn", warn))
    line_of(app, caplog, "GET", "/warn")
    assert lines[0].endswith(" odd id=id-7")


def test_successful_requests_are_logged_at_debug_level_only(
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
