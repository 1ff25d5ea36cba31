"""Values and errors → JSON responses. Only this file knows the shapes of error bodies."""

import logging
import re
from collections.abc import Mapping

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ExceptionHandler, Scope

from localinfra import errors
from localinfra.api.http.paths import not_found
from localinfra.api.http.request_log import remember_error
from localinfra.api.http.state import RequestState
from localinfra.errors import ApiError
from localinfra.logs import about, shown

log = logging.getLogger(__name__)

STATUS_ERRORS: dict[int, type[ApiError]] = {
    400: errors.InvalidRequest,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    413: errors.BodyTooLarge,
    415: errors.UnsupportedMediaType,
}


# Paths of APIs that have other error bodies.
ANTHROPIC_PATHS = re.compile(r"(/anthropic)?/v1/messages(/.*)?")
OLLAMA_PATHS = re.compile(r"/api(/.*)?")
OLLAMA_STATUSES: dict[type[ApiError], int] = {errors.QueueFull: 503}

# https://platform.claude.com/docs/en/api/errors; other 4xx are invalid_request_error.
ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}


class ErrorDetail(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None
    request_id: str | msgspec.UnsetType = msgspec.UNSET  # to find a 5xx in the server's log


class ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorDetail


class AnthropicErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    type: str = "error"
    error: ErrorDetail
    request_id: str


class OllamaErrorBody(msgspec.Struct, frozen=True):
    error: str


def speaks_anthropic(scope: Scope) -> bool:
    """Whether the path belongs to Anthropic's API, even if there is no such route."""
    return ANTHROPIC_PATHS.fullmatch(scope["path"]) is not None


def speaks_ollama(scope: Scope) -> bool:
    """The same for Ollama's API."""
    return OLLAMA_PATHS.fullmatch(scope["path"]) is not None


def json_response(
    value: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """`value` is anything msgspec encodes: structs, dicts, lists; NaN becomes null."""
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def error_body(error: ApiError, scope: Scope) -> bytes:
    """`{"error": {message, type, param, code}}`, with `request_id` if the server is at fault; the
    same in Anthropic's shape on its paths, and the message alone on Ollama's."""
    if speaks_ollama(scope):
        return msgspec.json.encode(OllamaErrorBody(error.message))
    detail = ErrorDetail(error.message, error.type, error.param, error.code)
    id = RequestState.of(scope).id
    if speaks_anthropic(scope):
        detail = msgspec.structs.replace(detail, type=anthropic_type(error.status))
        return msgspec.json.encode(AnthropicErrorBody(error=detail, request_id=id))
    if error.status >= 500:
        detail = msgspec.structs.replace(detail, request_id=id)
    return msgspec.json.encode(ErrorBody(detail))


def broken_off(media_type: str, error: ApiError, scope: Scope) -> bytes | None:
    """What ends a stream that can't end itself, after any of its events. None if it is none."""
    if media_type == "text/event-stream":
        # Anthropic's and OpenAI's Responses have events with names.
        named = speaks_anthropic(scope) or "/responses" in scope["path"]
        return b"%bdata: %b\n\n" % (b"event: error\n" if named else b"", error_body(error, scope))
    if media_type == "application/x-ndjson":
        return error_body(error, scope) + b"\n"
    return None


def anthropic_type(status: int) -> str:
    default = "api_error" if status >= 500 else "invalid_request_error"
    return ANTHROPIC_TYPES.get(status, default)


def error_response(
    error: ApiError, scope: Scope, headers: Mapping[str, str] | None = None
) -> Response:
    """The request ends with this error. Adds the headers that HTTP wants with a status:
    Retry-After, WWW-Authenticate, and `Connection: close` with a 408."""
    remember_error(error, scope)
    return possible_response(error, scope, headers)


def possible_response(
    error: ApiError, scope: Scope, headers: Mapping[str, str] | None = None
) -> Response:
    """The same for an error that may come."""
    own = dict(headers or {})
    if error.retry_after_s is not None:
        own["retry-after"] = str(error.retry_after_s)
    if error.status == 401:
        own["www-authenticate"] = "Bearer"
    if error.status == 408:
        own["connection"] = "close"  # else the rest of the body would be read as a request
    status = error.status
    if speaks_ollama(scope):
        status = OLLAMA_STATUSES.get(type(error), status)
    return Response(error_body(error, scope), status, own, "application/json")


def as_api_error(error: Exception, scope: Scope) -> ApiError:
    """An ApiError unchanged; any other error becomes EngineFailed, its traceback goes to the log
    only. It ends here: the frames that it came through hold the body, and the request keeps it for
    as long as the connection is open."""
    answer = error if isinstance(error, ApiError) else None
    if answer is None:
        id = RequestState.of(scope).id
        log.error("a request failed", exc_info=error, extra=about(id))
        answer = errors.EngineFailed(
            f"The server failed on this request: see its log for request {id}."
        )
    error.__traceback__ = error.__context__ = error.__cause__ = None
    remember_error(answer, scope)
    return answer


async def render_api_error(request: Request, error: Exception) -> Response:
    return error_response(as_api_error(error, request.scope), request.scope)


async def render_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own errors (no such route, wrong method, broken form) in our shape."""
    assert isinstance(error, HTTPException)
    kind = STATUS_ERRORS.get(error.status_code, ApiError)
    path, method = request.scope["path"], shown(request.method, 20)
    message = error.detail
    if kind is errors.NotFound:
        message = not_found(path, routes_of(request), base_of(request.scope))
    elif kind is errors.MethodNotAllowed:
        allowed = (error.headers or {}).get("Allow", "another method")
        message = f"{method} is not allowed on {shown(path)}: use {allowed}."
    answer = kind(message)
    answer.status = error.status_code
    return error_response(answer, request.scope, error.headers)


def routes_of(request: Request) -> list[str]:
    """Those that people may mean."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    return [route.path for route in routes if route.include_in_schema]


def base_of(scope: Scope) -> str:
    """This server's URL, taken from the connection: headers can be forged."""
    host, port = scope.get("server") or ("localhost", None)
    host = f"[{host}]" if ":" in host else host
    scheme = scope.get("scheme", "http")
    return f"{scheme}://{host}" + (f":{port}" if port else "")


# For Starlette's `exception_handlers`. `Guard` renders all other exceptions.
EXCEPTION_HANDLERS: Mapping[type[Exception], ExceptionHandler] = {
    ApiError: render_api_error,
    HTTPException: render_http_exception,
}
