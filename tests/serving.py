"""Any ASGI application on the server's own connections, in a thread; and bytes as they are."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from starlette.types import ASGIApp

from localinfra.api.sockets.server import Server
from localinfra.config.settings import ServerSettings
from localinfra.testing import Background


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


class Serving(Background):
    """Listens on a free port of `host` from the start on."""

    def __init__(
        self, app: ASGIApp, settings: ServerSettings | None = None, host: str = "127.0.0.1"
    ) -> None:
        super().__init__(Server(app, settings or ServerSettings()), host)

    def connect(self) -> socket.socket:
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
