"""A slow line to processes that are killed: what arrived is known to the byte."""

import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from fetch.site import Site

from localinfra.models.fetch import journal

ON_THE_WAY = 128 << 10  # bytes that the line holds at most: 10 ms of 100 Mbit/s
LOST_AFTER_S = 3.0  # without progress: it was let to a process just as that was killed


class ThinLine:
    """Between the server and one process after the other: holds little, and brings up to a limit.

    How much arrived is read in the journal. A test that let the system's buffers fill would measure
    those.
    """

    def __init__(self, site: Site, part: Path) -> None:
        self._site = site
        self._part = part
        self._let_bytes = 0
        self._generation = 0
        self._lock = threading.Lock()
        self.limit_bytes = 0  # of what may have arrived
        site.before_chunk = self.wait

    def arrived_bytes(self) -> int:
        known = journal.read(self._part)
        return sum(done for done, _ in known[1]) if known else 0

    def cut(self) -> None:
        """After the process was killed: what was on its way is lost."""
        with self._lock:
            self._generation += 1
            self._let_bytes = self.arrived_bytes()

    def wait(self, size: int) -> bool:
        """Until there is room for a chunk. False if the process is gone."""
        generation = self._generation
        stuck_at, stuck_since = -1, time.monotonic()
        while journal.read(self._part) is not None:  # else it is a look at the header, before
            with self._lock:
                if generation != self._generation:
                    return False
                arrived = self.arrived_bytes()
                if arrived != stuck_at:
                    stuck_at, stuck_since = arrived, time.monotonic()
                elif time.monotonic() - stuck_since > LOST_AFTER_S:
                    self._let_bytes, stuck_since = arrived, time.monotonic()
                has_room = self._let_bytes + size - arrived <= ON_THE_WAY
                if has_room and arrived < self.limit_bytes:
                    self._let_bytes += size
                    return True
            time.sleep(0.001)
        return True


def kill_pulls(
    line: ThinLine,
    size: int,
    pull: Callable[[], AbstractContextManager["subprocess.Popen[bytes]"]],
    num_kills: int = 5,
) -> None:
    """Starts pulls of a file of `size` bytes, kills all but the last one, and waits for that."""
    for at in range(1, num_kills + 1):
        line.limit_bytes = at * size // (num_kills + 2) + 12345
        with pull() as process:
            while line.arrived_bytes() < line.limit_bytes:
                assert process.poll() is None
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            process.wait()
        line.cut()
    line.limit_bytes = size
    with pull() as process:
        assert process.wait() == 0
