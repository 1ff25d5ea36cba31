"""Connections to hosts whose names others chose, to the very addresses that were judged."""

from collections.abc import Iterable

import httpcore2

from localinfra.models.fetch.lookup import addresses_of, is_private


class Elsewhere(Exception):
    """The host is not in the network that was asked for."""


class Dialer(httpcore2.SyncBackend):
    """Connects to hosts of the public internet alone, or only to those that are not on it. So it is
    known of each connection where it leads, also of one that is used again."""

    def __init__(self, *, private: bool) -> None:
        self._private = private

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        """To the first address that answers. TLS checks the certificate for the name, as ever.
        Raises Elsewhere, and httpcore2's errors."""
        trouble: Exception = httpcore2.ConnectError("it has no address")
        for address in self._addresses(host, port):
            try:
                return super().connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                trouble = error
        raise trouble

    def _addresses(self, host: str, port: int) -> list[str]:
        """One private address is enough for a host to be none of the public internet."""
        try:
            found = addresses_of(host, port)
        except OSError as error:
            raise httpcore2.ConnectError(error) from error
        private = [address for address in found if is_private(address)]
        if bool(private) != self._private:
            raise Elsewhere(host)
        return private or found
