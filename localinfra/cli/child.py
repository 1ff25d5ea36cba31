"""A server started for one command and stopped with it."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

import msgspec

from localinfra.children import OWN_GROUP, module_command
from localinfra.cli.client import Client, ServerRefused, ServerUnreachable
from localinfra.errors import ApiError
from localinfra.scratch import memory_file

START_LIMIT_S = 600  # a large model on a slow disk
STOP_LIMIT_S = 15
PROBE_LIMIT_S = 5
Progress = Callable[[float], None]  # seconds waited so far


class Health(msgspec.Struct):
    status: str


@contextmanager
def server(config: Path | None, progress: Progress) -> Iterator[Client]:
    """Starts a server on a free loopback port and yields a client for it once it is healthy.

    A random key keeps other users of the machine out. The server runs in its own session, so that
    Ctrl-C in the terminal stops an answer, not the server.
    Raises ApiError with the last lines of its log if it doesn't start.
    """
    port, key = free_port(), secrets.token_urlsafe(24)
    command = [*module_command("localinfra"), "serve"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--no-tls"]
    command += ["--config", str(config)] if config else []
    environment = os.environ | {"LOCALINFRA_API_KEYS": key}
    with memory_file() as log, ended_by_signals():
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            creationflags=OWN_GROUP,
        )
        try:
            client = Client(f"http://127.0.0.1:{port}", key)
            wait_until_healthy(process, client, log, progress)
            yield client
        finally:
            stop(process)


def wait_until_healthy(
    process: "subprocess.Popen[bytes]", client: Client, log: IO[bytes], progress: Progress
) -> None:
    started = time.monotonic()
    while process.poll() is None:
        try:
            if is_healthy(client):
                return
        except ServerUnreachable:
            pass  # not listening yet
        waited_s = time.monotonic() - started
        if waited_s > START_LIMIT_S:
            raise ApiError(f"The server was not ready within {START_LIMIT_S} s.")
        progress(waited_s)
        time.sleep(0.1)
    raise ApiError(f"The server ended with status {process.returncode}.\n{tail(log)}".strip())


def is_healthy(client: Client) -> bool:
    """Whether the server is ready; False while it loads. Raises ApiError if none answers."""
    try:
        return client.within(PROBE_LIMIT_S).get("/health", Health).status == "ok"
    except ServerRefused as error:
        if error.status == 503:
            return False
        raise


def tail(log: IO[bytes], num_lines: int = 5) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").splitlines()
    return "\n".join(line.removeprefix("error: ") for line in lines[-num_lines:])


def stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP unwind the stack, so that the server is stopped too."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows: no SIGHUP
    before = {name: signal.signal(getattr(signal, name), leave) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
