"""What clients are told whose requests a dying server leaves behind.

The server hands its parent a duplicate of a connection's descriptor, so that the connection
outlives it, and keeps in memory that does too what may be written there at this moment. After its
death the parent writes that. Knows no HTTP. Standard library only, as the supervisor imports it.
"""

import contextlib
import mmap
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import IO

MAX_WILLS = 1024  # connections at a time; those beyond break when the server dies
WILL_BYTES = 2048
LENGTH = struct.Struct("<H")  # after the byte that says whether the text holds
TEXT_AT = 1 + LENGTH.size
SIZE = MAX_WILLS * WILL_BYTES  # pages of it exist once they are written

MESSAGE = struct.Struct("<BI")  # of the server: what to do with the connection, its place
KEEP, DROP = 1, 2
MESSAGES_AT_ONCE = 64  # between two looks at signals
SPARE_DESCRIPTORS = 64  # of the parent, for all else
DRAINED_BYTES = 1 << 20  # unread ones that would make a close reset the connection


class Will:
    """What the parent may write into one connection. Event loop only."""

    def __init__(self, memory: mmap.mmap, place: int):
        self.place = place
        self._memory = memory
        self._at = place * WILL_BYTES
        self._memory[self._at] = 0

    def make(self, text: bytes) -> None:
        """This text, until it is revoked. One that is too long is none."""
        self.revoke()
        text = text if len(text) <= WILL_BYTES - TEXT_AT else b""  # `renew` must not find another
        LENGTH.pack_into(self._memory, self._at + 1, len(text))
        self._memory[self._at + TEXT_AT : self._at + TEXT_AT + len(text)] = text
        self._memory[self._at] = 1

    def revoke(self) -> None:
        self._memory[self._at] = 0

    def renew(self) -> None:
        """The text made last holds again."""
        self._memory[self._at] = 1


class Wills:
    """Those of a server's connections. Event loop only."""

    def __init__(self, channel: socket.socket, memory: int):
        """`memory`: the descriptor of a file of SIZE bytes."""
        channel.setblocking(False)
        self._channel = channel
        self._memory = mmap.mmap(memory, SIZE)
        self._free = list(reversed(range(MAX_WILLS)))
        self._closed: list[int] = []  # places whose connections the parent still keeps

    def open(self, descriptor: int) -> Will | None:
        """Has the parent keep the connection, until `close`. None if that is not possible now."""
        places = self._closed or self._free  # it drops one for the other: one message for both
        if not places or not self._send(KEEP, places[-1], descriptor):
            return None
        return Will(self._memory, places.pop())

    def close(self, will: Will) -> None:
        """The connection has been shut down."""
        will.revoke()
        self._closed.append(will.place)

    def tell_closed(self) -> None:
        """Call now and then: the parent drops what was closed."""
        while self._closed and self._send(DROP, self._closed[-1]):
            self._free.append(self._closed.pop())

    def _send(self, kind: int, place: int, *descriptors: int) -> bool:
        """False if the channel is full, or the parent gone. Never waits."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", d)) for d in descriptors]
        try:
            self._channel.sendmsg([MESSAGE.pack(kind, place)], rights)
        except OSError:
            return False
        return True


class Heir:
    """In the parent: keeps the connections of one server after another. Never waits."""

    def __init__(self, memory: IO[bytes]):
        """`memory`: an empty file."""
        memory.truncate(SIZE)
        self._file = memory
        self._memory = mmap.mmap(memory.fileno(), SIZE)
        self._most = min(MAX_WILLS, max(0, descriptor_limit() - SPARE_DESCRIPTORS))
        self._kept: dict[int, int] = {}  # place → descriptor
        self._channel: socket.socket | None = None  # while there is a server

    def __len__(self) -> int:
        return len(self._kept)

    @contextlib.contextmanager
    def testator(self) -> Iterator[Sequence[int]]:
        """Descriptors for a new server's `Wills`: channel and memory. Close them here once it has
        them, by leaving the block."""
        self._file.truncate(0)  # all zeros then, without a page of them
        self._file.truncate(SIZE)
        self._channel, end = socket.socketpair()
        self._channel.setblocking(False)
        with end:
            yield end.fileno(), self._file.fileno()

    def fileno(self) -> int:
        """What becomes readable when the server has sent something."""
        return -1 if self._channel is None else self._channel.fileno()

    def receive(self) -> bool:
        """Takes some of what the server has sent. Returns whether more may come."""
        for _ in range(MESSAGES_AT_ONCE):
            if not self._take_one():
                break
        return self._channel is not None

    def _take_one(self) -> bool:
        """Whether there was a message."""
        if self._channel is None:
            return False
        flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # not on macOS; Popen closes them anyway
        try:
            data, descriptors, _, _ = socket.recv_fds(self._channel, MESSAGE.size, 1, flags)
        except BlockingIOError:
            return False
        except OSError:
            data, descriptors = b"", []
        if len(data) == MESSAGE.size:
            kind, place = MESSAGE.unpack(data)
            self._take(kind, place, descriptors)
            return True
        for descriptor in descriptors:
            close(descriptor)
        self._close_channel()
        return False

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _take(self, kind: int, place: int, descriptors: Sequence[int]) -> None:
        if (old := self._kept.pop(place, None)) is not None:
            close(old)
        for descriptor in descriptors:
            if kind == KEEP and place < MAX_WILLS and len(self._kept) < self._most:
                self._kept[place] = descriptor
            else:
                close(descriptor)

    def settle(self, *, is_told: bool) -> int:
        """After the server's end: writes what may be written, if clients are to be told, and closes
        all. Returns how many were told."""
        while self._take_one():  # sent just before
            pass
        self._close_channel()  # another process may hold its other end
        num_told = 0
        for place, descriptor in self._kept.items():
            # Whatever its family is.
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor) as connection:
                text = self._text(place) if is_told else b""
                num_told += bool(text) and say(connection, text)
        self._kept.clear()
        return num_told

    def _text(self, place: int) -> bytes:
        at = place * WILL_BYTES
        if self._memory[at] != 1:
            return b""
        (length,) = LENGTH.unpack_from(self._memory, at + 1)
        return self._memory[at + TEXT_AT : at + TEXT_AT + min(length, WILL_BYTES - TEXT_AT)]


def say(connection: socket.socket, text: bytes) -> bool:
    """Writes the text as the connection's last, without waiting. Returns whether there was room
    and somebody to read it."""
    try:
        connection.setblocking(False)
        is_said = connection.send(text) == len(text)
        connection.shutdown(socket.SHUT_WR)
    except OSError:  # the client has left, or read nothing for long
        return False
    with contextlib.suppress(OSError):  # there is nothing more to read
        for _ in range(DRAINED_BYTES >> 16):
            if not connection.recv(1 << 16):
                break
    return is_said


def close(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # some systems report here that the client has reset it
        os.close(descriptor)


def descriptor_limit() -> int:
    """Of this process."""
    try:
        import resource
    except ImportError:  # Windows, which has no supervisor
        return 0
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_WILLS + SPARE_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
