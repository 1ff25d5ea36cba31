"""A small HTTP client for a running server: JSON in, structs out, events as they arrive.

One connection per request; closing a stream closes its connection, which tells the server to stop.
Ignores proxies in the environment: the server is local.
"""

import copy
import http.client
import os
import ssl
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from localinfra.certificate import trusting
from localinfra.errors import ApiError

DEFAULT_URL = "http://127.0.0.1:8000"
T = TypeVar("T")


class ServerUnreachable(ApiError):
    """Nothing at the URL answers, or not in HTTP."""


class ServerRefused(ApiError):
    """The server answered with an error; `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class RefusalDetail(msgspec.Struct):
    message: str


class RefusalBody(msgspec.Struct):
    error: RefusalDetail


class Client:
    """Raises ServerUnreachable or ServerRefused, both saying what to do next."""

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        timeout_s: float = 600,
        certificate: str | None = None,
    ) -> None:
        """`url` and `key` default to $LOCALINFRA_URL and $LOCALINFRA_API_KEY. With the file of a
        `certificate`, no other is trusted; without, those that the system or SSL_CERT_FILE name.

        Raises ApiError if the URL is not http(s), the key can't be sent, or the certificate not
        read. `timeout_s` limits each pause, not the whole answer; a request may wait long while its
        model loads.
        """
        self.url = (url or os.environ.get("LOCALINFRA_URL") or DEFAULT_URL).rstrip("/")
        self.url = self.url.removesuffix("/v1")  # as OpenAI's clients write their base URL
        self.key = (key or os.environ.get("LOCALINFRA_API_KEY") or "").strip()
        if not (self.key.isascii() and self.key.replace(" ", "").isprintable()):
            raise ApiError("The API key may have only printable ASCII characters.")
        self.timeout_s = timeout_s
        try:
            parts = urlsplit(self.url)
            self.host, self.port = parts.hostname or "", parts.port
        except ValueError:  # a port that is not a number, an unclosed bracket
            raise ApiError(self.bad_url()) from None
        if parts.scheme not in ("http", "https") or not self.host:
            raise ApiError(self.bad_url())
        self.prefix = parts.path
        self.certificate = certificate
        self.trusted: ssl.SSLContext | None = None
        if parts.scheme == "https":
            self.trusted = trusting(certificate) if certificate else ssl.create_default_context()

    def within(self, timeout_s: float) -> "Client":
        """One of the same server with another limit."""
        other = copy.copy(self)
        other.timeout_s = timeout_s
        return other

    def bad_url(self) -> str:
        return f"{self.url} is not a server's URL: use one like {DEFAULT_URL}"

    def get(self, path: str, into: type[T]) -> T:
        return self.decode(self.body("GET", path), into)

    def post(self, path: str, body: object, into: type[T]) -> T:
        return self.decode(self.body("POST", path, body), into)

    def body(self, method: str, path: str, body: object = None) -> bytes:
        """The answer's."""
        with closing(self.connect()) as connection:
            response = self.send(connection, method, path, body)
            try:
                return response.read()
            except (OSError, http.client.HTTPException) as error:
                raise ServerUnreachable(f"The answer broke off: {error}") from None

    def stream(self, path: str, body: object, into: type[T]) -> Generator[T, None, None]:
        """Yields an answer's events up to [DONE]. Close the generator to stop the answer."""
        with closing(self.connect()) as connection:
            response = self.send(connection, "POST", path, body)
            try:
                for data in events(response):
                    if data == b"[DONE]":
                        return
                    if message := error_message(data):
                        raise ServerRefused(message, response.status)
                    yield self.decode(data, into)
            except (OSError, http.client.HTTPException) as error:
                raise ServerUnreachable(f"The answer broke off: {error}") from None
        raise ServerUnreachable("The answer broke off before its end: see the server's log.")

    def connect(self) -> http.client.HTTPConnection:
        if self.trusted is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=self.timeout_s)
        return http.client.HTTPSConnection(
            self.host, self.port, timeout=self.timeout_s, context=self.trusted
        )

    def send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: object = None
    ) -> http.client.HTTPResponse:
        headers = {"Accept": "application/json, text/event-stream"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        payload = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            payload = msgspec.json.encode(body)
        try:
            connection.request(method, self.prefix + path, payload, headers)
            response = connection.getresponse()
            if response.status < 400:
                return response
            text = response.read(100_000)
        except TimeoutError:
            raise ServerUnreachable(
                f"{self.url} has not answered for {self.timeout_s:g} s: see the server's log."
            ) from None
        except ssl.SSLCertVerificationError as error:
            raise ServerUnreachable(
                f"The certificate of {self.url} is not trusted ({error.verify_message}). If it is "
                "yours, name its file in SSL_CERT_FILE, or as tls_cert in the settings of this "
                "command; if it was renewed, `kill -HUP` lets the server read it again."
            ) from None
        except ssl.SSLError as error:
            raise ServerUnreachable(
                f"The program at {self.url} does not speak TLS ({error.reason}): try http://."
            ) from None
        except OSError as error:
            raise ServerUnreachable(
                f"No server answers at {self.url} ({error.strerror or error}): start one with "
                "`localinfra serve`, or give another address with --url or LOCALINFRA_URL."
            ) from None
        except http.client.HTTPException:
            raise ServerUnreachable(f"The program at {self.url} does not speak HTTP.") from None
        raise ServerRefused(self.refusal(response.status, text), response.status)

    def refusal(self, status: int, text: bytes) -> str:
        message = error_message(text) or f"{self.url} answered with HTTP status {status}."
        hint = " Give the key with --key or LOCALINFRA_API_KEY." if status == 401 else ""
        return message + hint

    def decode(self, text: bytes, into: type[T]) -> T:
        try:
            return msgspec.json.decode(text, type=into)
        except msgspec.MsgspecError as error:
            raise ServerUnreachable(
                f"Another program answers at {self.url}, not a localinfra server ({error})."
            ) from None


def events(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the data of each server-sent event, skipping comments and other fields.

    https://html.spec.whatwg.org/multipage/server-sent-events.html
    """
    data: list[bytes] = []
    for line in lines:
        line = line.rstrip(b"\r\n")
        if not line and data:
            yield b"\n".join(data)
            data = []
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))


def error_message(text: bytes) -> str | None:
    try:
        return msgspec.json.decode(text, type=RefusalBody).error.message
    except msgspec.MsgspecError:
        return None
