"""Which connections are open, and which to close if there are too many. Does no I/O."""

import logging
from collections import Counter
from typing import Protocol

from localinfra.addresses import is_loopback
from localinfra.config.settings import ServerSettings
from localinfra.errors import ApiError, ServerBusy
from localinfra.logs import about

log = logging.getLogger(__name__)

MAX_LEAVING = 16  # connections refused and still open for the client to read why
RETRY_AFTER_S = 1


class ClosableConnection(Protocol):
    """What this file needs of a connection."""

    @property
    def address(self) -> str: ...
    @property
    def request_id(self) -> str: ...
    def drop(self) -> None: ...
    def check(self, now_s: float) -> None: ...


class Connections:
    """The open connections of one server. Event loop only.

    States: new → receiving (head received) → working → waiting → receiving …, or leaving.
    To make room for a new connection, the oldest that is not working is closed: first of those
    leaving, then new, then waiting, then receiving.
    """

    def __init__(self, settings: ServerSettings, capacity: int | None = None):
        """`capacity`: how many connections the process has descriptors for, if known."""
        self.apply(settings, capacity)
        self._all: dict[ClosableConnection, None] = {}
        self._num_from: Counter[str] = Counter()
        self._leaving: dict[ClosableConnection, None] = {}
        self._new: dict[ClosableConnection, None] = {}
        self._waiting: dict[ClosableConnection, None] = {}
        self._receiving: dict[ClosableConnection, None] = {}
        # Slow readers → bytes buffered for them. The one that read most recently is last.
        self._unread: dict[ClosableConnection, int] = {}
        self.unread_bytes = 0

    def apply(self, settings: ServerSettings, capacity: int | None = None) -> None:
        """Changes the limits. Connections beyond them stay open until others need their place."""
        self.settings = settings
        self.capacity = min(settings.max_connections, capacity or settings.max_connections)

    def __len__(self) -> int:
        return len(self._all)

    def open(self, connection: ClosableConnection) -> ApiError | None:
        """Counts a new connection. Returns the error if it must be refused."""
        address = connection.address
        self._all[connection] = None
        self._num_from[address] += 1
        limit = self.settings.max_connections_per_address
        if self._num_from[address] > limit and not is_local(address):
            return ServerBusy(
                f"More than {limit} connections from {address} are open: close some, or raise "
                "max_connections_per_address under [server] of models.toml.",
                retry_after_s=RETRY_AFTER_S,
            )
        if len(self._all) > self.capacity:
            for group in (self._leaving, self._new, self._waiting, self._receiving):
                if group:
                    self._make_room(next(iter(group)))
                    break
            else:
                return ServerBusy(
                    f"All {self.capacity} connections are in use: try again later, or raise "
                    "max_connections under [server] of models.toml and the limit of open files "
                    "(ulimit -n).",
                    retry_after_s=RETRY_AFTER_S,
                )
        self._new[connection] = None
        return None

    def _make_room(self, oldest: ClosableConnection) -> None:
        log.warning(
            "all %d connections are in use: closing the oldest idle one (%s)",
            self.capacity,
            oldest.address,
        )
        self.forget(oldest)
        oldest.drop()

    def begin(self, connection: ClosableConnection) -> None:
        """Call when a request's head has been received."""
        if connection in self._waiting:
            del self._waiting[connection]
        else:
            self._new.pop(connection, None)
        self._receiving[connection] = None

    def received(self, connection: ClosableConnection) -> None:
        """Call when the whole request has been received."""
        self._receiving.pop(connection, None)

    def wait(self, connection: ClosableConnection) -> None:
        """Call when the response has been sent."""
        self._receiving.pop(connection, None)
        if connection in self._all:
            self._waiting[connection] = None

    def hold(self, connection: ClosableConnection, num_bytes: int) -> None:
        """Call when a slow reader has made progress and `num_bytes` remain. If too much is
        buffered in total, drops those that have read nothing for longest."""
        self.read(connection)
        while self._unread and self.unread_bytes + num_bytes > self.settings.max_unread_bytes:
            slowest = next(iter(self._unread))
            log.warning(
                "%s is slow to read its answer, and too much is buffered for slow clients: "
                "connection closed",
                slowest.address,
                extra=about(slowest.request_id),
            )
            self.forget(slowest)
            slowest.drop()
        self._unread[connection] = num_bytes
        self.unread_bytes += num_bytes

    def read(self, connection: ClosableConnection) -> None:
        """Call when the client has read nearly everything."""
        self.unread_bytes -= self._unread.pop(connection, 0)

    def leave(self, connection: ClosableConnection) -> None:
        """Call when it was refused and is about to be closed."""
        self._settle(connection)
        if connection in self._all:
            if len(self._leaving) >= MAX_LEAVING:
                oldest = next(iter(self._leaving))
                self.forget(oldest)
                oldest.drop()
            self._leaving[connection] = None

    def forget(self, connection: ClosableConnection) -> None:
        """Call when it is closed; more than once is fine."""
        self._settle(connection)
        self.read(connection)
        if connection in self._all:
            del self._all[connection]
            self._num_from[connection.address] -= 1
            if not self._num_from[connection.address]:
                del self._num_from[connection.address]

    def _settle(self, connection: ClosableConnection) -> None:
        for group in (self._new, self._waiting, self._receiving, self._leaving):
            group.pop(connection, None)

    def check(self, now_s: float) -> None:
        """Has each connection check its deadlines."""
        for connection in list(self._all):
            connection.check(now_s)


def is_local(address: str) -> bool:
    """Whether many clients may share the address, behind a proxy on this machine; "" is a Unix
    socket."""
    return not address or is_loopback(address)
