"""Which sockets are bound for a host and port."""

import contextlib
import errno
import socket
from collections.abc import Iterator

import pytest
from serving import has_ipv6

from localinfra.api.sockets import binding
from localinfra.api.sockets.binding import bind

real_bound_socket = binding.bound_socket


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")


@contextlib.contextmanager
def taken(host: str, port: int = 0) -> Iterator[list[tuple[str, int]]]:
    sockets = bind(host, port)
    try:
        yield [listener.getsockname()[:2] for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()


@needs_ipv6
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST"])
def test_localhost_is_two_addresses_with_one_port(host: str) -> None:
    with taken(host) as [(first, port), (second, same_port)]:
        assert (first, second) == ("127.0.0.1", "::1") and port == same_port != 0
    with taken(host, port) as found:
        assert found == [("127.0.0.1", port), ("::1", port)]


@pytest.mark.parametrize("number", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
def test_without_ipv6_localhost_is_one_address(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def bound_socket(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(number, "no such address")
        return real_bound_socket(family, address, port)

    monkeypatch.setattr(binding, "bound_socket", bound_socket)
    with taken("localhost") as [(address, _)]:
        assert address == "127.0.0.1"


def test_a_port_in_use_on_the_other_address_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[int] = []

    def bound_socket(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
        if family == socket.AF_INET6:
            tried.append(port)
            if len(tried) < 4:
                raise OSError(errno.EADDRINUSE, "in use")
            return real_bound_socket(socket.AF_INET, "127.0.0.2", port)
        return real_bound_socket(family, address, port)

    monkeypatch.setattr(binding, "bound_socket", bound_socket)
    with taken("localhost") as [(_, port), (_, same_port)]:
        assert port == same_port == tried[-1] and len(tried) == 4


@needs_ipv6
def test_a_chosen_port_in_use_on_either_address_is_an_error() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
        with pytest.raises(OSError) as caught:
            bind("localhost", other.getsockname()[1])
    assert caught.value.errno == errno.EADDRINUSE


@needs_ipv6
def test_every_address_is_ipv4_too() -> None:
    with taken("::") as [(_, port)]:
        listener = socket.socket()
        with listener, pytest.raises(OSError):
            listener.bind(("0.0.0.0", port))


def test_an_address_in_brackets_and_a_plain_one() -> None:
    with taken("127.0.0.1") as [(address, _)]:
        assert address == "127.0.0.1"
    if has_ipv6():
        with taken("[::1]") as [(address, _)]:
            assert address == "::1"
