"""Serves the application on sockets: uvicorn with `Connection` in place of its own protocol.

Signals and the terminal are left to the command.
"""

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from localinfra.api.sockets.connection import Connection
from localinfra.api.sockets.connections import Connections
from localinfra.api.sockets.renewal import Renewal
from localinfra.api.sockets.tls import Arrival
from localinfra.config.settings import ServerSettings
from localinfra.wills import Wills

CHECK_TICKS = 5  # of uvicorn's main loop, which ticks ten times a second
RENEWAL_TICKS = 300  # between two looks at the certificate's files
SPARE_DESCRIPTORS = 64  # for model files, libraries and connections being closed
# At the shutdown deadline the runtime ends answers with an error; a busy machine then has this
# long to write it. After that, clients that have not read it are disconnected.
FINAL_WRITE_S = 10.0


class Server(uvicorn.Server):
    """Run it with `serve(sockets)`."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, lifespan: bool = True):
        """Raises ConfigError if the settings' certificate can't be used."""
        self.open = Connections(settings, capacity())
        self.renewal = Renewal(settings)
        self.wills: Wills | None = None  # of a supervised server
        super().__init__(
            uvicorn.Config(
                app,
                http=cast(type[Connection], self.protocol),
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

    def protocol(self, **given: Any) -> asyncio.Protocol:
        """For a client that has connected; called by uvicorn."""
        found = self.renewal.certificate
        if found is None:
            return Connection(self.open, wills=self.wills, **given)
        connections = self.server_state.connections
        return Arrival(
            self.open, connections, found.context, lambda: Connection(self.open, **given)
        )

    def apply(self, settings: ServerSettings) -> None:
        """Changes the limits, for connections that are open too, and the certificate of others."""
        raise_descriptor_limit(settings)
        most = capacity()
        self.open.apply(settings, most + len(self.open) if most is not None else None)
        self.config.timeout_keep_alive = cast(int, settings.idle_timeout_s)
        self.config.timeout_graceful_shutdown = longest_shutdown(settings)
        self.renewal.look(settings)

    async def on_tick(self, counter: int) -> bool:
        if counter % CHECK_TICKS == 0:
            self.open.check(asyncio.get_running_loop().time())
            if self.wills is not None:
                self.wills.tell_closed()
        if counter % RENEWAL_TICKS == 0:
            self.renewal.look(self.open.settings)
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
