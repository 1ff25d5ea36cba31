"""Which connections are open, and who gives way when there are too many. Reads and writes none."""

import logging
from collections import Counter
from typing import Protocol

from localinfra.addresses import is_loopback
from localinfra.config.settings import ServerSettings
from localinfra.errors import ApiError, ServerBusy

log = logging.getLogger(__name__)

MAX_LEAVING = 16  # refused, and given a moment to read why
RETRY_AFTER_S = 1


class ClosableConnection(Protocol):
    """A connection, as far as this file sees it."""

    @property
    def address(self) -> str: ...
    def drop(self) -> None: ...
    def check(self, now_s: float) -> None: ...


class Connections:
    """Those of one server. Event loop only.

    States: new → receiving (its head is there) → working → waiting → receiving …, or leaving.
    Whoever is not being worked for gives way to a newcomer: first who leaves, then who never asked,
    then who waits between requests, then who is still sending; in each the oldest.
    """

    def __init__(self, settings: ServerSettings, capacity: int | None = None):
        """`capacity`: what this process has descriptors for, if it knows."""
        self.settings = settings
        self.capacity = min(settings.max_connections, capacity or settings.max_connections)
        self._all: dict[ClosableConnection, None] = {}
        self._num_from: Counter[str] = Counter()
        self._leaving: dict[ClosableConnection, None] = {}
        self._new: dict[ClosableConnection, None] = {}
        self._waiting: dict[ClosableConnection, None] = {}
        self._receiving: dict[ClosableConnection, None] = {}
        # Those that are slow to read: what is kept of their answers. Who has read last is last.
        self._unread: dict[ClosableConnection, int] = {}
        self.unread_bytes = 0

    def __len__(self) -> int:
        return len(self._all)

    def open(self, connection: ClosableConnection) -> ApiError | None:
        """Counts a new one. Returns why it has to be refused, if it has."""
        address = connection.address
        self._all[connection] = None
        self._num_from[address] += 1
        limit = self.settings.max_connections_per_address
        if self._num_from[address] > limit and not is_local(address):
            return ServerBusy(
                f"More than {limit} connections from {address} are open: close some, or raise "
                "max_connections_per_address under [server].",
                retry_after_s=RETRY_AFTER_S,
            )
        if len(self._all) > self.capacity:
            for group in (self._leaving, self._new, self._waiting, self._receiving):
                if group:
                    self._make_room(next(iter(group)))
                    break
            else:
                return ServerBusy(
                    f"All {self.capacity} connections are in use: try again, or raise "
                    "max_connections under [server] and the limit of open files (ulimit -n).",
                    retry_after_s=RETRY_AFTER_S,
                )
        self._new[connection] = None
        return None

    def _make_room(self, oldest: ClosableConnection) -> None:
        log.warning(
            "%d connections are open, as many as may be: the oldest that waits is closed (%s)",
            self.capacity,
            oldest.address,
        )
        self.forget(oldest)
        oldest.drop()

    def begin(self, connection: ClosableConnection) -> None:
        """Its request's head is there."""
        if connection in self._waiting:
            del self._waiting[connection]
        else:
            self._new.pop(connection, None)
        self._receiving[connection] = None

    def received(self, connection: ClosableConnection) -> None:
        """Its request is there as a whole."""
        self._receiving.pop(connection, None)

    def wait(self, connection: ClosableConnection) -> None:
        """Its answer is sent."""
        self._receiving.pop(connection, None)
        if connection in self._all:
            self._waiting[connection] = None

    def hold(self, connection: ClosableConnection, num_bytes: int) -> None:
        """So much of its answer is left, and it has just begun to read or read on. Where that is
        too much in all, who has read nothing for longest gives way."""
        self.read(connection)
        while self._unread and self.unread_bytes + num_bytes > self.settings.max_unread_bytes:
            slowest = next(iter(self._unread))
            log.warning(
                "%s is slow to read its answer, and too much is kept for such clients: connection "
                "closed",
                slowest.address,
            )
            self.forget(slowest)
            slowest.drop()
        self._unread[connection] = num_bytes
        self.unread_bytes += num_bytes

    def read(self, connection: ClosableConnection) -> None:
        """It has read nearly all that there was."""
        self.unread_bytes -= self._unread.pop(connection, 0)

    def leave(self, connection: ClosableConnection) -> None:
        """It was refused and is about to be closed."""
        self._settle(connection)
        if connection in self._all:
            if len(self._leaving) >= MAX_LEAVING:
                oldest = next(iter(self._leaving))
                self.forget(oldest)
                oldest.drop()
            self._leaving[connection] = None

    def forget(self, connection: ClosableConnection) -> None:
        """It is closed. Harmless the second time."""
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
        """Has each look at its deadlines."""
        for connection in list(self._all):
            connection.check(now_s)


def is_local(address: str) -> bool:
    """Every client behind a proxy on this machine has such an address; "" is a Unix socket."""
    return not address or is_loopback(address)
