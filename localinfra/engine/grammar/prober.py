"""Grammars that may take llguidance long are tried out in a child process, which can be ended.

What passes there in its time takes no longer here, for llguidance does the same work again. (A
compiled grammar can't cross from one process to another.)
"""

import contextlib
import select
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from localinfra.engine.grammar.errors import not_compiled
from localinfra.errors import QueueFull

BUDGET_S = 1.0  # of processor time, for a source
MAX_WAIT_S = 60.0  # where the child gets no processor
MAX_JOBS = 500  # of one child: what it has learnt by heart is freed
SCRIPT = Path(__file__).with_name("probe.py")


class TooLong(Exception):
    """The child ended over a source, or had to be ended."""


class Child:
    """One process. A thread at a time."""

    def __init__(self) -> None:
        self.num_jobs = 0
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(BUDGET_S)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is its parent's
        )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, source: str) -> str:
        """What is wrong with the source, or nothing. Raises TooLong; then the child has ended."""
        self.num_jobs += 1
        stdin = self._process.stdin
        assert stdin
        data = source.encode()
        try:
            stdin.write(struct.pack("<I", len(data)) + data)
            stdin.flush()
            deadline_s = time.monotonic() + MAX_WAIT_S
            (size,) = struct.unpack("<I", self._read(4, deadline_s))
            return self._read(size, deadline_s).decode()
        except (OSError, ValueError, TooLong, struct.error):  # ValueError: closed meanwhile
            self.close()
            raise TooLong from None

    def _read(self, size: int, deadline_s: float) -> bytes:
        stdout = self._process.stdout
        assert stdout
        data = b""
        while len(data) < size:
            ready, _, _ = select.select([stdout], [], [], max(0, deadline_s - time.monotonic()))
            part = stdout.raw.read(size - len(data)) if ready else b""  # type: ignore[attr-defined]
            if not part:
                raise TooLong
            data += part
        return data

    def close(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()
        self._process.wait()


class Prober:
    """Any thread; each has a child of its own while it asks."""

    def __init__(self) -> None:
        self._idle: list[Child] = []
        self._busy: set[Child] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def check(self, source: str, param: str) -> None:
        """Raises InvalidRequest, about `param`, where the source is wrong or takes too long, and
        QueueFull where no child can be had."""
        child = self._take()
        try:
            problem = child.ask(source)
        except TooLong:
            problem = "it takes too much time or memory; simplify it"
        finally:
            self._give_back(child)
        if problem:
            raise not_compiled(problem, source, param)

    def close(self) -> None:
        """Ends the children, those at work too."""
        with self._lock:
            self._is_closed = True
            children = [*self._idle, *self._busy]
            self._idle.clear()
        for child in children:
            child.close()

    def _take(self) -> Child:
        with self._lock:
            try:
                child = self._idle.pop() if self._idle else Child()
            except OSError as error:  # no more processes or files
                raise QueueFull(
                    f"The grammar can't be tried out now ({error}); try again later.",
                    retry_after_s=5,
                ) from None
            self._busy.add(child)
            return child

    def _give_back(self, child: Child) -> None:
        with self._lock:
            self._busy.discard(child)
            if child.is_alive and child.num_jobs < MAX_JOBS and not self._is_closed:
                self._idle.append(child)
                return
        child.close()
