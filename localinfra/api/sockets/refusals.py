"""Errors for connections that exceed a limit or don't speak HTTP/1.1."""

import http
from collections.abc import Iterable

import httptools
from starlette.responses import Response
from starlette.types import Scope

from localinfra import errors
from localinfra.api.http.errors import error_response
from localinfra.api.http.state import RequestState
from localinfra.errors import ApiError

MAX_HEADERS = 100
MAX_URL_BYTES = 16 * 1024
MAX_PIPELINED = 16  # requests sent before the answer to the first


def answer(error: ApiError, scope: Scope, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The whole response, after which the connection closes. `headers`: the server's defaults."""
    own = {"connection": "close", "x-request-id": RequestState.of(scope).id}
    if error.status == 426:
        own["upgrade"] = "HTTP/1.1"
    return as_bytes(error_response(error, scope, own), headers)


def as_bytes(response: Response, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    phrase = http.HTTPStatus(response.status_code).phrase.encode()
    fields = b"".join([b"%b: %b\r\n" % field for field in (*headers, *response.raw_headers)])
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (
        response.status_code,
        phrase,
        fields,
        bytes(response.body),
    )


def malformed(data: bytes, error: Exception, is_first_read: bool) -> ApiError:
    if is_first_read and data.startswith(b"\x16\x03"):
        return errors.InvalidRequest(
            "This server does not speak TLS: use http:// instead, or set tls_cert under [server] "
            "of models.toml."
        )
    if is_first_read and data.startswith(b"PRI * HTTP/2"):
        return errors.UnsupportedHttpVersion(
            "This server supports only HTTP/1.1: turn off HTTP/2 with prior knowledge."
        )
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        return errors.InvalidRequest("The request is not valid HTTP: unknown method.")
    reason = "" if isinstance(error, httptools.HttpParserCallbackError) else str(error)[:100]
    return errors.InvalidRequest(
        f"The request is not valid HTTP: {reason or 'its target is malformed'}."
    )


def only_tls() -> ApiError:
    return errors.InvalidRequest("This server speaks TLS on this port: use https:// instead.")


def no_request() -> ApiError:
    return errors.InvalidRequest("The request is not valid HTTP: only line ends were sent.")


def url_too_long() -> ApiError:
    return errors.UrlTooLong(f"The URL is longer than {MAX_URL_BYTES} bytes.")


def head_too_large(max_bytes: int) -> ApiError:
    return errors.HeadersTooLarge(
        f"The request has more than {MAX_HEADERS} headers, or more than {max_bytes} bytes of them."
    )


def head_too_slow(timeout_s: float) -> ApiError:
    return errors.RequestTimeout(f"The request's head did not arrive within {timeout_s:g} s.")


def odd_chunks() -> ApiError:
    return errors.InvalidRequest(
        "The body's chunks are too small for their framing: send larger ones, or a Content-Length."
    )


def foreign_coding(value: bytes) -> ApiError | None:
    """The error for a `Transfer-Encoding` that this server can't read; None for plain chunks."""
    codings = [coding.strip().lower() for coding in value.split(b",")]
    if all(coding in (b"", b"chunked", b"identity") for coding in codings):
        return None
    return errors.UnsupportedMediaType(
        "Send the body uncompressed: the only transfer coding supported is chunked."
    )


def too_many_at_once() -> ApiError:
    return errors.InvalidRequest(
        f"More than {MAX_PIPELINED} requests are pipelined on one connection: wait for answers, or "
        "use more connections."
    )


def no_proxy() -> ApiError:
    return errors.MethodNotAllowed("This server is not a proxy: CONNECT is not supported.")
