"""What a client is told whose connection asks for too much, or for what is no HTTP/1.1."""

import http
from collections.abc import Iterable

import httptools
from starlette.types import Scope

from localinfra import errors
from localinfra.api.http.errors import error_response
from localinfra.api.http.state import RequestState
from localinfra.errors import ApiError


def answer(error: ApiError, scope: Scope, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The whole answer, after which the connection is closed. `headers` are those of the server."""
    own = {"connection": "close", "x-request-id": RequestState.of(scope).id}
    if error.status == 426:
        own["upgrade"] = "HTTP/1.1"
    response = error_response(error, scope, own)
    phrase = http.HTTPStatus(error.status).phrase.encode()
    fields = b"".join([b"%b: %b\r\n" % field for field in (*headers, *response.raw_headers)])
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (error.status, phrase, fields, bytes(response.body))


def malformed(data: bytes, error: Exception, *, is_first: bool) -> ApiError:
    """`data` is what the parser gave up at; `is_first`: nothing came before it."""
    if is_first and data.startswith(b"\x16\x03"):
        return errors.InvalidRequest("This server speaks no TLS: use http:// instead.")
    if is_first and data.startswith(b"PRI * HTTP/2"):
        return errors.UnsupportedHttpVersion(
            "This server speaks HTTP/1.1: switch HTTP/2 with prior knowledge off."
        )
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        return errors.InvalidRequest("The request is not valid HTTP: no known method.")
    reason = "" if isinstance(error, httptools.HttpParserCallbackError) else str(error)[:100]
    return errors.InvalidRequest(
        f"The request is not valid HTTP: {reason or 'its target can not be read'}."
    )


def no_request() -> ApiError:
    return errors.InvalidRequest("The request is not valid HTTP: no request.")


def url_too_long(max_bytes: int) -> ApiError:
    return errors.UrlTooLong(f"The URL is longer than {max_bytes} bytes.")


def head_too_large(max_headers: int, max_bytes: int) -> ApiError:
    return errors.HeadersTooLarge(
        f"The request's headers are more than {max_headers} or larger than {max_bytes} bytes."
    )


def head_too_slow(timeout_s: float) -> ApiError:
    return errors.RequestTimeout(f"The request's head did not arrive within {timeout_s:g} s.")


def odd_chunks() -> ApiError:
    return errors.InvalidRequest(
        "The body's chunks hold too little for what frames them: send larger ones, or a "
        "Content-Length."
    )


def too_many_pipelined(most: int) -> ApiError:
    return errors.InvalidRequest(
        f"More than {most} requests wait on one connection: send the next when an answer is "
        "there, or use more connections."
    )


def no_proxy() -> ApiError:
    return errors.MethodNotAllowed("This server is no proxy: CONNECT is not served.")


def no_websocket() -> ApiError:
    return errors.UpgradeRequired(
        "This server speaks no WebSocket: ask over HTTP, with `stream: true` for events."
    )
