"""The application on sockets: uvicorn with `Connection` in place of its own protocol.

Takes sockets that `bind` made. No signals, no terminal: those are the command's.
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

CHECK_TICKS = 5  # of uvicorn's main loop, which has ten a second
SPARE_DESCRIPTORS = 64  # for model files, libraries and connections being closed
NO_SUCH_ADDRESS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # no IPv6 here
# What the kernel holds of an answer that its client doesn't read. By itself it would take
# megabytes, and with a slow reader be seen to move once in minutes.
SEND_BUFFER_BYTES = 256 * 1024
# After the deadline for answers, at which the runtime ends them with an error: for a busy machine
# to write it. Clients that do not read it are cut then.
LAST_WORDS_S = 10.0
ATTEMPTS = 20  # to find one free port on two addresses


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
                timeout_graceful_shutdown=round(settings.shutdown_timeout_s + LAST_WORDS_S),
                lifespan="on" if lifespan else "off",
            )
        )

    async def on_tick(self, counter: int) -> bool:
        if counter % CHECK_TICKS == 0:
            self.open.check(asyncio.get_running_loop().time())
        return await super().on_tick(counter)


def capacity() -> int | None:
    """How many connections this process has descriptors for; None where nothing limits them."""
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
        with contextlib.suppress(OSError, ValueError):  # some systems know better than their limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def bind(host: str, port: int) -> list[socket.socket]:
    """The address taken, before any long work; nobody is answered until a server listens.

    `localhost` is 127.0.0.1 and, where there is one, ::1: clients differ in what they try. With
    port 0 both get the same. Raises OSError with its errno, socket.gaierror among them.
    """
    for attempt in range(ATTEMPTS):
        sockets: list[socket.socket] = []
        try:
            for family, address in addresses(host, port):
                chosen = sockets[0].getsockname()[1] if sockets else port
                try:
                    sockets.append(bound(family, address, chosen))
                except OSError as error:
                    if not sockets or error.errno not in NO_SUCH_ADDRESS:
                        raise
            return sockets
        except OSError as error:
            for taken in sockets:
                taken.close()
            # A free port of the first address may be in use on the second.
            found_by_chance = port == 0 and sockets and error.errno == errno.EADDRINUSE
            if not found_by_chance or attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    """What a host name stands for, each once."""
    if host.lower() == "localhost":  # whatever the system's own table says
        return [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
    found = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))


def bound(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # a port just left may be taken again
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # `::` is every address of this machine, also where the system would leave IPv4 out.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address != "::"))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.bind((address, port))
    except OSError:
        listener.close()
        raise
    return listener
