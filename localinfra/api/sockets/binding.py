"""Sockets for the addresses that settings name."""

import errno
import os
import socket

NO_SUCH_ADDRESS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # there is no IPv6
ATTEMPTS = 20  # to find a port that is free on two addresses
# The kernel's buffer for data the client has not read. The default is megabytes, where a slow
# reader's progress would show only once in minutes.
SEND_BUFFER_BYTES = 256 * 1024


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
