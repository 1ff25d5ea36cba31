"""Standard output and error that never hold anybody up, whoever reads them, or nobody.

A pipe that is not read fills up, and the next write to it would stop its thread for good: the event
loop's, that of a load, or the supervisor's. So a thread of its own writes, and what waits for it is
limited; what a full disk or a closed pipe does not take is dropped. Standard library only, as the
supervisor imports it.
"""

import atexit
import contextlib
import io
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

MOST_WAITING = 1 << 20  # bytes; a pipe itself has 64 KiB
SETTLE_S = 1.0  # for what waits at the end, if somebody reads
THREAD = "output"
LOST = "... {} lines are missing here: nobody took them\n"


class Outlet(io.RawIOBase):
    """The writing end of one stream. Any thread, and signal handlers; never blocks."""

    def __init__(self, write: Callable[[bytes], int], descriptor: int, most: int = MOST_WAITING):
        """`write`: may block, may take a part only, and raises OSError."""
        self._write = write
        self._descriptor = descriptor
        self._most = most
        self._waiting: deque[bytes] = deque()
        self._num_waiting = 0  # bytes, those being written among them
        self._num_lost = 0  # lines
        self._changed = threading.Condition()  # its lock may be taken again by a signal handler
        self._thread: threading.Thread | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: "ReadableBuffer", /) -> int:
        text = bytes(data)
        with self._changed:
            if self._num_waiting + len(text) > self._most:
                self._num_lost += text.count(b"\n")
                return len(text)
            self._put(self._marker() + text)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return len(text)

    def _put(self, text: bytes) -> None:
        self._waiting.append(text)
        self._num_waiting += len(text)

    def _marker(self) -> bytes:
        """What stands where lines are missing, if any are since the last one."""
        lost, self._num_lost = self._num_lost, 0
        return LOST.format(lost).encode() if lost else b""

    def settle(self, limit_s: float) -> bool:
        """Waits until all is written, for so long at most. Returns whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._num_waiting, limit_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                text = b"".join(self._waiting)
                self._waiting.clear()
            self._write_all(text)
            with self._changed:
                if not self._waiting and (marker := self._marker()):
                    self._put(marker)
                self._num_waiting -= len(text)
                self._changed.notify_all()

    def _write_all(self, text: bytes) -> None:
        with contextlib.suppress(OSError):  # nobody can be told, and the disk may have room later
            while text:
                text = text[self._write(text) :]


_outlets: list[Outlet] = []


def install() -> None:
    """Puts outlets in the place of sys.stdout and sys.stderr, for this process' whole life. On
    Windows nothing changes: a console there takes no bytes."""
    if os.name != "posix" or _outlets:
        return
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        try:
            descriptor = stream.fileno() if stream else None
        except (OSError, ValueError):
            descriptor = None  # not the system's, as in tests
        if stream is None or descriptor is None:
            continue
        stream.flush()
        outlet = Outlet(_writer_to(descriptor), descriptor)
        _outlets.append(outlet)
        own = io.TextIOWrapper(  # type: ignore[type-var]  # it needs no buffer
            outlet,
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=True,
            write_through=True,
        )
        setattr(sys, name, own)
    atexit.register(settle)


def _writer_to(descriptor: int) -> Callable[[bytes], int]:
    # Past Python's own object for the stream: a thread that is stopped in it holds its lock, and an
    # interpreter that ends then aborts.
    return lambda text: os.write(descriptor, text)


def settle(limit_s: float = SETTLE_S) -> None:
    """Lets what was written come out, for so long at most: call it before the process ends without
    Python's own ways."""
    for outlet in _outlets:
        outlet.settle(limit_s)


def for_last_words() -> int:
    """A descriptor for standard error that C code may write to: on Linux, where it is a pipe or a
    file, one that does not block."""
    with contextlib.suppress(OSError):
        return os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK | os.O_APPEND | os.O_CLOEXEC)
    return 2
