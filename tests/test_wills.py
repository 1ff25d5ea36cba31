"""What a server's parent keeps of its connections, and writes into them after its death."""

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator

import pytest

from localinfra.wills import MAX_WILLS, WILL_BYTES, Heir, Wills


class Both:
    """The two sides in one process, and a client of the server's."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self.heir = Heir(stack.enter_context(tempfile.TemporaryFile()))
        self.channel: socket.socket

    def start(self) -> Wills:
        with self.heir.testator() as (channel, memory):
            self.channel = socket.socket(fileno=os.dup(channel))
            self._stack.enter_context(self.channel)
            return Wills(self.channel, memory)

    def connection(self) -> tuple[socket.socket, socket.socket]:
        """The client's end, and the server's."""
        client, server = socket.socketpair()
        client.settimeout(600)
        return self._stack.enter_context(client), self._stack.enter_context(server)


@pytest.fixture
def both() -> Iterator[Both]:
    with contextlib.ExitStack() as stack:
        both = Both(stack)
        yield both
        both.heir.settle(is_told=False)  # closes the rest


def test_the_text_made_last_is_written_and_the_connection_ended(both: Both) -> None:
    wills = both.start()
    client, server = both.connection()
    will = wills.open(server.fileno())
    assert will is not None
    will.make(b"answer")
    will.make(b"event")
    will.revoke()
    will.renew()
    server.close()  # as its process's death does
    assert both.heir.settle(is_told=True) == 1
    assert client.recv(100) == b"event" and client.recv(100) == b""


@pytest.mark.parametrize("text", [None, b"x" * WILL_BYTES])
def test_without_a_text_or_with_one_too_long_connections_are_closed(
    both: Both, text: bytes | None
) -> None:
    wills = both.start()
    client, server = both.connection()
    will = wills.open(server.fileno())
    assert will is not None
    will.make(b"before")
    will.revoke() if text is None else will.make(text)
    server.close()
    assert both.heir.settle(is_told=True) == 0
    assert client.recv(100) == b""


def test_what_came_before_a_text_too_long_never_holds_again(both: Both) -> None:
    wills = both.start()
    client, server = both.connection()
    will = wills.open(server.fileno())
    assert will is not None
    will.make(b"before")
    will.make(b"x" * WILL_BYTES)
    will.renew()
    server.close()
    assert both.heir.settle(is_told=True) == 0
    assert client.recv(100) == b""


def test_an_end_on_purpose_tells_nobody(both: Both) -> None:
    wills = both.start()
    client, server = both.connection()
    will = wills.open(server.fileno())
    assert will is not None
    will.make(b"answer")
    server.close()
    assert both.heir.settle(is_told=False) == 0 and client.recv(100) == b""


def test_what_was_closed_makes_room_for_others_and_is_never_told(both: Both) -> None:
    wills = both.start()
    clients = []
    for number in range(3 * MAX_WILLS):
        client, server = both.connection()
        will = wills.open(server.fileno())
        assert will is not None, number
        will.make(b"%d" % number)
        server.close()
        clients.append(client)
        if number < 3 * MAX_WILLS - 1:
            wills.close(will)
        both.heir.receive()
        assert len(both.heir) == 1
        if number:
            assert clients[-2].recv(100) == b""
            clients[-2].close()
    assert both.heir.settle(is_told=True) == 1
    assert clients[-1].recv(100) == b"%d" % (3 * MAX_WILLS - 1)


def test_the_parent_drops_what_was_closed(both: Both) -> None:
    wills = both.start()
    client, server = both.connection()
    will = wills.open(server.fileno())
    assert will is not None and both.heir.receive() and len(both.heir) == 1
    server.close()
    wills.close(will)
    wills.tell_closed()
    assert both.heir.receive() and len(both.heir) == 0
    assert client.recv(100) == b""


def test_a_full_channel_holds_nobody_up(both: Both) -> None:
    """The parent reads nothing: some connections are not kept, and their places are free later."""
    wills = both.start()
    _, server = both.connection()
    kept = 0
    while (will := wills.open(server.fileno())) is not None:
        kept += 1
        first = will
    assert 0 < kept < MAX_WILLS
    wills.close(first)
    wills.tell_closed()
    while len(both.heir) < kept:
        assert both.heir.receive()
    wills.tell_closed()
    assert both.heir.receive() and len(both.heir) == kept - 1
    assert wills.open(server.fileno()) is not None


def test_no_more_are_kept_than_the_parent_has_descriptors_for(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(both.heir, "_most", 2)
    wills = both.start()
    pairs = [both.connection() for _ in range(3)]
    for _, server in pairs:
        will = wills.open(server.fileno())
        assert will is not None
        will.make(b"answer")
        server.close()
    assert both.heir.settle(is_told=True) == 2
    assert [client.recv(100) for client, _ in pairs] == [b"answer", b"answer", b""]


def test_nothing_of_a_server_is_left_for_the_next(both: Both) -> None:
    wills = both.start()
    _, server = both.connection()
    will = wills.open(server.fileno())
    assert will is not None
    will.make(b"old")
    both.heir.settle(is_told=True)
    client, server = both.connection()
    assert both.start().open(server.fileno()) is not None
    server.close()
    assert both.heir.settle(is_told=True) == 0 and client.recv(100) == b""


def test_who_reads_nothing_holds_nobody_up(both: Both) -> None:
    wills = both.start()
    client, server = both.connection()
    will = wills.open(server.fileno())
    assert will is not None
    will.make(b"answer")
    server.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while server.send(b"x" * 65536):
            pass
    server.close()
    assert both.heir.settle(is_told=True) == 0
    client.close()


def test_the_server_goes_on_without_its_parent(both: Both) -> None:
    wills = both.start()
    _, server = both.connection()
    both.heir.settle(is_told=False)  # its end of the channel is closed
    assert wills.open(server.fileno()) is None
