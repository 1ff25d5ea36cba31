"""Any ASGI application on the server's own connections, in a thread; and bytes as they are."""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from msgspec.structs import replace
from starlette.types import ASGIApp

from localinfra.api.sockets.server import Server
from localinfra.config.settings import ServerSettings
from localinfra.testing import Background

CERTIFICATES = Path(__file__).parent / "certificates"
WITH_TLS = ServerSettings(
    tls_cert=str(CERTIFICATES / "first.pem"), tls_key=str(CERTIFICATES / "first.key")
)


def trusting_tests() -> ssl.SSLContext:
    """As a browser or SDK that knows the tests' authority."""
    return ssl.create_default_context(cafile=CERTIFICATES / "authority.pem")


def with_tls(settings: ServerSettings) -> ServerSettings:
    return replace(settings, tls_cert=WITH_TLS.tls_cert, tls_key=WITH_TLS.tls_key)


# For tests of what a connection keeps or bounds, by fixtures of tests/api/sockets.
also_with_tls = pytest.mark.parametrize(
    "has_tls", [False, True], ids=["plain", "tls"], indirect=True
)


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


class Serving(Background):
    """Listens on a free port of `host` from the start on."""

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerSettings | None = None,
        host: str = "127.0.0.1",
        loop: str = "auto",
    ) -> None:
        """`loop` as uvicorn names it."""
        server = Server(app, settings or ServerSettings())
        server.config.loop = loop
        super().__init__(server, host)

    def connect(self) -> socket.socket:
        """A client's socket; of TLS, if the server has a certificate: of the tests' authority."""
        plain = self.connect_plainly()
        if not self.server.open.settings.tls_cert:
            return plain
        return trusting_tests().wrap_socket(plain, server_hostname="localhost")

    def connect_plainly(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 30)

    @contextlib.contextmanager
    def talk(self) -> "Iterator[Talk]":
        with self.connect() as connection:
            yield Talk(connection)


class RawReply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> Any:
        return msgspec.json.decode(self.body)["error"]


class Talk:
    """One connection. Reads answers with a Content-Length, or to the connection's end."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.held = b""

    def send(self, *parts: bytes) -> None:
        """Until the server reads no more."""
        with contextlib.suppress(OSError):
            for part in parts:
                self.connection.sendall(part)

    def reply(self) -> RawReply:
        while b"\r\n\r\n" not in self.held:
            self._receive()
        head, self.held = self.held.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])
        }
        size = int(headers.get("content-length", "0"))
        while len(self.held) < size:
            self._receive()
        body, self.held = self.held[:size], self.held[size:]
        return RawReply(int(lines[0].split()[1]), headers, body)

    def ask(self, *parts: bytes) -> RawReply:
        self.send(*parts)
        return self.reply()

    def is_closed(self) -> bool:
        """Waits for the server to close it, for half a minute at most."""
        with contextlib.suppress(ConnectionError):
            while self.connection.recv(65536):
                pass
        return True

    def _receive(self) -> None:
        data = self.connection.recv(65536)
        assert data, f"closed after {self.held!r}"
        self.held += data
