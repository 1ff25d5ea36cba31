"""Serves the application on sockets: uvicorn with `Connection` in place of its own protocol.

`bind` makes the sockets. Signals and the terminal are left to the command.
"""

import asyncio
import contextlib
import errno
import functools
import os
import socket
from pathlib import Path
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from localinfra.api.sockets.connection import Connection
from localinfra.api.sockets.connections import Connections
from localinfra.config.settings import ServerSettings

CHECK_TICKS = 5  # of uvicorn's main loop, which ticks ten times a second
SPARE_DESCRIPTORS = 64  # for model files, libraries and connections being closed
NO_SUCH_ADDRESS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # there is no IPv6
# The kernel's buffer for data the client has not read. The default is megabytes, where a slow
# reader's progress would show only once in minutes.
SEND_BUFFER_BYTES = 256 * 1024
# At the shutdown deadline the runtime ends answers with an error; a busy machine then has this
# long to write it. After that, clients that have not read it are disconnected.
FINAL_WRITE_S = 10.0
ATTEMPTS = 20  # to find a port that is free on two addresses


class Server(uvicorn.Server):
    """Run it with `serve(sockets)`."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, lifespan: bool = True):
        self.open = Connections(settings, capacity())
        super().__init__(
            uvicorn.Config(
                app,
                http=cast(type[Connection], functools.partial(Connection, self.open)),
                log_config=None,
                log_level=None if settings.log_level == "debug" else "warning",
                access_log=False,
                server_header=False,
                ws="none",
                timeout_keep_alive=cast(int, settings.idle_timeout_s),
                timeout_graceful_shutdown=longest_shutdown(settings),
                lifespan="on" if lifespan else "off",
            )
        )

    def apply(self, settings: ServerSettings) -> None:
        """Changes the limits, for connections that are open too."""
        raise_descriptor_limit(settings)
        most = capacity()
        self.open.apply(settings, most + len(self.open) if most is not None else None)
        self.config.timeout_keep_alive = cast(int, settings.idle_timeout_s)
        self.config.timeout_graceful_shutdown = longest_shutdown(settings)

    async def on_tick(self, counter: int) -> bool:
        if counter % CHECK_TICKS == 0:
            self.open.check(asyncio.get_running_loop().time())
        return await super().on_tick(counter)


def longest_shutdown(settings: ServerSettings) -> int:
    """Seconds."""
    return round(settings.shutdown_timeout_s + FINAL_WRITE_S)


def capacity() -> int | None:
    """How many connections this process has descriptors for; None if unlimited."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return None
    return max(1, limit - num_open_descriptors() - min(SPARE_DESCRIPTORS, limit // 4))


def num_open_descriptors() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        if Path(folder).is_dir():
            return len(os.listdir(folder))
    return 0


def raise_descriptor_limit(settings: ServerSettings) -> None:
    """Asks the system for as many descriptors as the settings' connections need."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections + 4 * SPARE_DESCRIPTORS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # some systems allow less than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets bound to the address, to claim it before any long work; they do not listen yet.

    `localhost` means 127.0.0.1 and, if there is IPv6, ::1: clients try either. With port 0 both
    get the same port. Raises OSError with its errno, or its subclass socket.gaierror.
    """
    for attempt in range(ATTEMPTS):
        sockets: list[socket.socket] = []
        try:
            for family, address in addresses(host, port):
                chosen = sockets[0].getsockname()[1] if sockets else port
                try:
                    sockets.append(bound_socket(family, address, chosen))
                except OSError as error:
                    if not sockets or error.errno not in NO_SUCH_ADDRESS:
                        raise
            return sockets
        except OSError as error:
            for opened in sockets:
                opened.close()
            # The port chosen on the first address may be in use on the second.
            may_retry = port == 0 and sockets and error.errno == errno.EADDRINUSE
            if not may_retry or attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    """The addresses of a host name, each once."""
    if host.lower() == "localhost":  # whatever the hosts file says
        return [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
    found = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))


def bound_socket(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # to reuse a port that was just closed
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # `::` includes IPv4, even if the system's default is IPv6 only.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address != "::"))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.bind((address, port))
    except OSError:
        listener.close()
        raise
    return listener
