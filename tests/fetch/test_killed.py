"""A pull that is killed five times ends right, and hardly fetches a byte twice."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from children import started
from fetch.site import Site, repository
from fetch.thin_line import ThinLine, kill_pulls

SIZE = 48 << 20
PULL = """
from dataclasses import replace
from fetch.pulling import QUICK, pulled
print(pulled("hf:org/m", replace(QUICK, part_bytes=4 << 20, read_s=3600)))
"""


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
    kill_pulls(line, SIZE, pulling)
    assert blob.read_bytes() == data
    assert cdn.sent_bytes <= 1.02 * SIZE
