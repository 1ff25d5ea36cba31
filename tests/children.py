"""Processes that tests start: with a terminal's signals, and ended whatever becomes of the test."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, Self


def give_children_default_signals() -> None:
    """A script's background job ignores SIGINT, one of nohup SIGHUP, and children inherit that.
    What is handled is reset to its default by exec: so handled it is, by doing nothing."""

    def nothing(number: int, frame: FrameType | None) -> None:
        pass

    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, nothing)


@contextlib.contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator["subprocess.Popen[Any]"]:
    """The process, in a session of its own, which is killed in the end with what it started."""
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield process
    finally:
        end(process)


def end(process: "subprocess.Popen[Any]") -> None:
    """For a process that leads a group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


class Terminal:
    """`localinfra ARGUMENTS` in a pseudo-terminal, as a person would use it."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            command = [sys.executable, "-m", "localinfra", *arguments]
            os.execve(sys.executable, command, os.environ | {"TERM": "dumb"} | environment)
        self.shown = ""
        self.status: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.exit_code()

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def until(self, pattern: str, limit_s: float = 60) -> str:
        """Returns what was shown up to the end of the pattern, which must come."""
        deadline = time.monotonic() + limit_s
        while not (match := re.search(pattern, self.shown)):
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} did not come after {self.shown!r}"
            try:
                self.shown += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:
                raise AssertionError(f"ended after {self.shown!r}") from None
        before, self.shown = self.shown[: match.end()], self.shown[match.end() :]
        return before

    def rest(self) -> str:
        """What is shown until the process ends."""
        try:
            while data := os.read(self.fd, 65536):
                self.shown += data.decode(errors="replace")
        except OSError:  # the other end is closed
            pass
        return self.shown

    def exit_code(self) -> int:
        if self.status is None:
            self.rest()
            os.close(self.fd)
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status
