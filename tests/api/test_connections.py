"""Which connection is closed when there are too many; without sockets."""

import pytest

from localinfra.api.sockets.connections import MAX_LEAVING, Connections, is_local
from localinfra.config.settings import ServerSettings


class Fake:
    def __init__(self, address: str = "127.0.0.1") -> None:
        self.address = address
        self.request_id = ""
        self.is_dropped = False
        self.checks: list[float] = []

    def drop(self) -> None:
        self.is_dropped = True

    def check(self, now_s: float) -> None:
        self.checks.append(now_s)


def settings(max_connections: int = 4) -> ServerSettings:
    return ServerSettings(max_connections=max_connections, max_connections_per_address=2)


def opened(connections: Connections, count: int, address: str = "127.0.0.1") -> list[Fake]:
    fakes = [Fake(address) for _ in range(count)]
    assert all(connections.open(fake) is None for fake in fakes)
    return fakes


def test_which_connections_are_closed_first() -> None:
    connections = Connections(settings())
    working, receiving, waiting, new = opened(connections, 4)
    connections.begin(working)
    connections.received(working)
    connections.begin(receiving)
    connections.begin(waiting)
    connections.received(waiting)
    connections.wait(waiting)
    for victim in (new, waiting, receiving):
        assert not victim.is_dropped
        [newcomer] = opened(connections, 1)
        assert victim.is_dropped and len(connections) == 4
        connections.begin(newcomer)  # all of them are working now
        connections.received(newcomer)
    refusal = connections.open(Fake())
    assert refusal and (refusal.status, refusal.retry_after_s) == (503, 1)
    assert not working.is_dropped


def test_the_oldest_waiting_connection_is_closed() -> None:
    connections = Connections(settings(3))
    first, second, third = opened(connections, 3)
    for fake in (first, second, third):
        connections.begin(fake)
        connections.received(fake)
    for fake in (second, third, first):
        connections.wait(fake)
    opened(connections, 2)
    assert [fake.is_dropped for fake in (first, second, third)] == [False, True, False]


def test_an_address_has_a_limit_but_loopback_has_none() -> None:
    connections = Connections(settings(100))
    far = opened(connections, 2, "192.168.1.7")
    refused = Fake("192.168.1.7")
    refusal = connections.open(refused)
    assert refusal and refusal.status == 503 and "192.168.1.7" in refusal.message
    opened(connections, 2, "192.168.1.8")
    opened(connections, 10, "127.0.0.1")
    connections.forget(refused)
    connections.forget(far[0])
    opened(connections, 1, "192.168.1.7")


def test_few_descriptors_lower_the_limit() -> None:
    assert Connections(settings(100), capacity=7).capacity == 7
    assert Connections(settings(100), capacity=1000).capacity == 100
    assert Connections(settings(100), capacity=None).capacity == 100


def test_few_refused_connections_stay_open() -> None:
    connections = Connections(settings(1000))
    fakes = opened(connections, MAX_LEAVING + 3)
    for fake in fakes:
        connections.leave(fake)
    assert [fake.is_dropped for fake in fakes] == [True] * 3 + [False] * MAX_LEAVING


def test_the_slow_reader_idle_for_longest_is_closed() -> None:
    connections = Connections(ServerSettings(max_unread_bytes=4 << 20))
    first, second, third, fourth = opened(connections, 4)
    for fake in (first, second, third):
        connections.hold(fake, 1 << 20)
    connections.hold(first, 900_000)  # it has made progress
    connections.hold(fourth, 2 << 20)
    assert [fake.is_dropped for fake in (first, second, third, fourth)] == [
        False, True, False, False,
    ]  # fmt: skip
    assert connections.unread_bytes == 900_000 + (1 << 20) + (2 << 20) and len(connections) == 3
    connections.read(third)
    connections.hold(fourth, 64 << 20)
    assert first.is_dropped and not fourth.is_dropped  # a single one may be of any size
    connections.forget(fourth)
    connections.forget(second)
    assert connections.unread_bytes == 0


def test_a_closed_connection_may_be_forgotten_twice() -> None:
    connections = Connections(settings())
    [fake] = opened(connections, 1)
    connections.forget(fake)
    connections.forget(fake)
    connections.wait(fake)
    connections.leave(fake)
    connections.check(1.0)
    assert len(connections) == 0 and not fake.checks


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", True),
        ("127.3.4.5", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("", True),
        ("192.168.1.7", False),
        ("::ffff:192.168.1.7", False),
        ("fe80::1", False),
    ],
)
def test_which_addresses_are_local(address: str, expected: bool) -> None:
    assert is_local(address) is expected
