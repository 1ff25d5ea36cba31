"""The error body and its headers, through a Starlette app built like the server's."""

from collections.abc import Callable

import msgspec
import pytest
from asgi import Reply, call, scope_of
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from localinfra import errors
from localinfra.api.http.errors import EXCEPTION_HANDLERS, error_response, json_response
from localinfra.api.http.guard import Access, Guard
from localinfra.errors import ApiError


def app(failure: Exception | None = None) -> Starlette:
    async def endpoint(request: Request) -> Response:
        if failure:
            raise failure
        return json_response({"ok": True}, 201, {"x-extra": "1"})

    return Starlette(
        routes=[
            Route("/v1/models", endpoint),
            Route("/v1/completions", endpoint, methods=["POST"]),
            Route("/v1/chat/completions", endpoint, methods=["POST"]),
            Route("/v1/messages", endpoint, methods=["POST"]),
            Route("/anthropic/v1/messages/count_tokens", endpoint, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, access=Access())],
        exception_handlers=EXCEPTION_HANDLERS,
    )


def failing_with(failure: Exception) -> Reply:
    return call(app(failure), scope_of())


def test_a_value_is_sent_as_json() -> None:
    reply = call(app(), scope_of())
    assert (reply.status, reply.body) == (201, b'{"ok":true}')
    assert reply.header("content-type") == "application/json"
    assert reply.header("x-extra") == "1" and reply.header("x-request-id")


def test_an_error_has_openais_shape() -> None:
    reply = failing_with(errors.InvalidRequest("too hot", "temperature"))
    assert reply.status == 400 and reply.header("content-type") == "application/json"
    assert msgspec.json.decode(reply.body) == {
        "error": {
            "message": "too hot",
            "type": "invalid_request_error",
            "param": "temperature",
            "code": "invalid_value",
        }
    }


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, ApiError)
        and kind is not errors.ContextLengthExceeded  # takes numbers
    ],
)
def test_every_error_class_is_rendered_with_its_status(kind: Callable[[str], ApiError]) -> None:
    reply = failing_with(kind("what to do"))
    error = reply.error
    assert reply.status == kind("").status
    assert {"message", "type", "param", "code"} <= error.keys()
    assert ("request_id" in error) == (reply.status >= 500)


ANTHROPIC_TYPES = [
    (errors.InvalidRequest, "invalid_request_error"),
    (errors.Unauthorized, "authentication_error"),
    (errors.Forbidden, "permission_error"),
    (errors.ModelNotFound, "not_found_error"),
    (errors.MethodNotAllowed, "invalid_request_error"),
    (errors.RequestTimeout, "invalid_request_error"),
    (errors.BodyTooLarge, "request_too_large"),
    (errors.QueueFull, "rate_limit_error"),
    (errors.EngineFailed, "api_error"),
    (errors.ModelUnavailable, "api_error"),
]


@pytest.mark.parametrize("path", ["/v1/messages", "/anthropic/v1/messages/count_tokens"])
@pytest.mark.parametrize(("kind", "type"), ANTHROPIC_TYPES)
def test_errors_on_anthropics_paths_have_their_shape(
    kind: Callable[[str, str], ApiError], type: str, path: str
) -> None:
    failure = kind("what to do", "model")
    reply = call(app(failure), scope_of("POST", path))
    assert reply.status == failure.status
    assert msgspec.json.decode(reply.body) == {
        "type": "error",
        "error": {"type": type, "message": "what to do", "param": "model", "code": failure.code},
        "request_id": reply.header("request-id"),
    }


@pytest.mark.parametrize("path", ["/v1/messages/batches", "/anthropic/v1/messages/batches"])
def test_an_unknown_path_of_anthropics_api_gets_their_shape(path: str) -> None:
    body = msgspec.json.decode(call(app(), scope_of("POST", path)).body)
    assert (body["type"], body["error"]["type"]) == ("error", "not_found_error")


def test_errors_on_ollamas_paths_are_their_message_with_its_statuses() -> None:
    scope = scope_of("POST", "/api/chat")
    full = error_response(errors.QueueFull("Too many.", retry_after_s=2), scope)
    assert (full.status_code, full.headers["retry-after"]) == (503, "2")
    assert bytes(full.body) == b'{"error":"Too many."}'
    assert error_response(errors.ModelNotFound("Which?"), scope).status_code == 404
    reply = call(app(), scope_of(path="/api/nowhere"))
    assert reply.status == 404 and "Ollama" in reply.error


def test_other_paths_keep_openais_shape_and_header() -> None:
    for path in ("/v1/message", "/v1/messagesx", "/v1/chat/messages", "/anthropic"):
        reply = call(app(), scope_of("POST", path))
        assert reply.error["type"] == "invalid_request_error" and b'"error"' in reply.body[:9]
        assert reply.header("request-id") is None


def test_headers_follow_the_status() -> None:
    assert failing_with(errors.Unauthorized("no")).header("www-authenticate") == "Bearer"
    assert failing_with(errors.QueueFull("later", retry_after_s=7)).header("retry-after") == "7"
    assert failing_with(errors.RequestTimeout("slow")).header("connection") == "close"


def test_an_unknown_path_suggests_similar_ones() -> None:
    reply = call(app(), scope_of("POST", "/v1/chat/completion"))
    assert reply.status == 404 and reply.error["code"] == "not_found"
    assert "/v1/chat/completion " in reply.error["message"]
    assert "Did you mean /v1/chat/completions" in reply.error["message"]
    assert "Did you mean" not in call(app(), scope_of("GET", "/zzz")).error["message"]


def test_a_very_long_path_is_cut_in_the_message() -> None:
    assert len(call(app(), scope_of("GET", "/a" * 30_000)).body) < 500


def test_a_wrong_method_names_the_right_one() -> None:
    reply = call(app(), scope_of("GET", "/v1/completions"))
    assert (reply.status, reply.header("allow")) == (405, "POST")
    assert reply.error["code"] == "method_not_allowed" and "POST" in reply.error["message"]


@pytest.mark.parametrize("status", [400, 403, 404, 413, 415, 422, 418])
def test_starlettes_own_refusals_have_the_same_shape(status: int) -> None:
    reply = failing_with(HTTPException(status, "reason"))
    assert reply.status == status
    assert {"message", "type", "param", "code"} <= reply.error.keys()


def test_an_unexpected_failure_in_a_handler_is_a_500_with_an_id() -> None:
    reply = failing_with(KeyError("private"))
    assert reply.status == 500 and reply.error["code"] == "engine_failed"
    assert reply.error["request_id"] == reply.header("x-request-id")
    assert b"private" not in reply.body
