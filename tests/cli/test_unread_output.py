"""A server whose output and log go where nothing comes out: a pipe that nobody reads or that is
closed, a full disk. It serves, and ends when it is told to."""

import contextlib
import fcntl
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from localinfra.outlet import LOST, Outlet

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full, sizes of pipes")
SETTINGS = """
[server]
keep_costs = false
serve_pulled = false
[model.absent]
kind = "text"
source = "hf:owner/repo/file.gguf"
"""
NUM_REFUSED = 150  # a line each: some times what the pipe holds


@contextlib.contextmanager
def sink(kind: str) -> Iterator[int]:
    """A descriptor to write to."""
    if kind == "full disk":
        descriptor = os.open("/dev/full", os.O_WRONLY)
        yield descriptor
        os.close(descriptor)
        return
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    if kind == "closed pipe":
        os.close(reading)
    yield writing
    os.close(writing)
    if kind != "closed pipe":
        os.close(reading)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def ask(port: int, path: str) -> int:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=300)) as client:
        client.request("GET", path)
        answer = client.getresponse()
        answer.read()
        return answer.status


def wait_until_it_serves(process: "subprocess.Popen[bytes]", port: int) -> None:
    while process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            assert ask(port, "/health") == 200
            return
        time.sleep(0.05)
    raise AssertionError(f"it ended with {process.returncode}")


@pytest.mark.parametrize("is_supervised", [False, True], ids=["", "supervised"])
@pytest.mark.parametrize("kind", ["unread pipe", "closed pipe", "full disk"])
def test_who_does_not_take_the_log_holds_nobody_up(
    tmp_path: Path, kind: str, is_supervised: bool
) -> None:
    (tmp_path / "models.toml").write_text(SETTINGS)
    command = [sys.executable, "-m", "localinfra", "serve", "--port", str(port := free_port())]
    command += ["--config", str(tmp_path / "models.toml"), *["--supervised"] * is_supervised]
    places = {name: str(tmp_path) for name in ("LOCALINFRA_CACHE", "LOCALINFRA_DATA")}
    with sink(kind) as output:
        process = subprocess.Popen(
            command, env=os.environ | places, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
        try:
            wait_until_it_serves(process, port)
            for number in range(NUM_REFUSED):
                assert ask(port, f"/v1/nothing/{number}") == 404
            assert ask(port, "/health") == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(300) == 0
        finally:
            process.kill()
            process.wait()


def test_what_waits_is_limited_and_what_is_missing_is_said_where_it_is() -> None:
    begun, may_go_on, written = threading.Event(), threading.Event(), bytearray()

    def write(text: bytes) -> int:
        begun.set()
        may_go_on.wait()
        written.extend(text)
        return len(text)

    outlet = Outlet(write, 2, most=100_000)
    outlet.write(b"first\n")
    begun.wait()
    for _ in range(5000):
        assert outlet.write(b"x" * 99 + b"\n") == 100
    outlet.write(b"short\n")  # there is room for it again, but not for the next
    outlet.write(b"x" * 99 + b"\n")
    assert not outlet.settle(0)
    may_go_on.set()
    assert outlet.settle(300)
    marks = [LOST.format(5000 - 999).rstrip(), LOST.format(1).rstrip()]
    assert (
        written.decode().split()
        == " ".join(["first", *["x" * 99] * 999, marks[0], "short", marks[1]]).split()
    )
    outlet.write(b"after\n")
    assert outlet.settle(300) and written.endswith(b"after\n")


def test_a_part_that_is_written_is_not_written_again() -> None:
    written: list[bytes] = []

    def one_byte(text: bytes) -> int:
        written.append(text[:1])
        return 1

    outlet = Outlet(one_byte, 2)
    outlet.write(b"a line\n")
    assert outlet.settle(300)
    assert b"".join(written) == b"a line\n"
