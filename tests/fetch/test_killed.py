"""A pull that is killed five times ends right, and hardly fetches a byte twice."""

import hashlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from children import started
from fetch.site import Site, repository

from localinfra.models.fetch import journal

SIZE = 48 << 20
ON_THE_WAY = 128 << 10  # bytes that the line holds at most: 10 ms of 100 Mbit/s
PULL = """
from dataclasses import replace
from fetch.pulling import QUICK, pulled
print(pulled("hf:org/m", replace(QUICK, part_bytes=4 << 20, read_s=3600)))
"""


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
        while True:
            with self._lock:
                if generation != self._generation:
                    return False
                arrived = self.arrived_bytes()
                has_room = self._let_bytes + size - arrived <= ON_THE_WAY
                if has_room and arrived < self.limit_bytes:
                    self._let_bytes += size
                    return True
            time.sleep(0.001)


@contextmanager
def pulling() -> Iterator["subprocess.Popen[bytes]"]:
    with started([sys.executable, "-c", PULL], cwd=Path(__file__).parents[1]) as process:
        yield process


def test_a_pull_killed_five_times_fetches_hardly_a_byte_twice(
    hub: Site, cdn: Site, tmp_path: Path
) -> None:
    data = bytes(range(256)) * (SIZE // 256)
    data = b"GGUF" + data[4:]
    repository(hub, cdn, "org/m", {"m-Q8_0.gguf": data})
    blob = tmp_path / "hub" / "models--org--m" / "blobs" / hashlib.sha256(data).hexdigest()
    line = ThinLine(cdn, blob.with_name(f"{blob.name}.part"))
    for at in range(1, 6):
        line.limit_bytes = at * SIZE // 7 + 12345
        with pulling() as process:
            while line.arrived_bytes() < line.limit_bytes:
                assert process.poll() is None
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            process.wait()
        line.cut()
    line.limit_bytes = SIZE
    with pulling() as process:
        assert process.wait() == 0
    assert blob.read_bytes() == data
    assert cdn.sent_bytes <= 1.02 * SIZE
