"""Tries grammars that may take llguidance long in a child process, which can be killed.

A grammar that passes there in time takes as long again here: llguidance repeats the same work,
since a compiled grammar can't be passed between processes.
"""

import contextlib
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from localinfra.children import OWN_GROUP
from localinfra.engine.grammar.errors import compile_error
from localinfra.errors import QueueFull

BUDGET_S = 1.0  # CPU time per source
MAX_WAIT_S = 60.0  # in case the child gets no CPU time
MAX_JOBS = 500  # per child; its caches are freed with it
SCRIPT = Path(__file__).with_name("probe.py")


class TooLong(Exception):
    """The child ended over a source, or had to be killed."""


class Child:
    """One process. One thread at a time."""

    def __init__(self) -> None:
        self.num_jobs = 0
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(BUDGET_S)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C goes to the parent only
            creationflags=OWN_GROUP,
        )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, source: str) -> str:
        """Returns the source's problem, or ''. Raises TooLong; the child has ended then."""
        self.num_jobs += 1
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin and stdout
        data = source.encode()
        timer = threading.Timer(MAX_WAIT_S, self._process.kill)  # its pipe ends then
        timer.daemon = True
        timer.start()
        try:
            stdin.write(struct.pack("<I", len(data)) + data)
            stdin.flush()
            (size,) = struct.unpack("<I", read(stdout, 4))
            return read(stdout, size).decode()
        except (OSError, ValueError, TooLong):  # ValueError: closed by `close`
            self.close()
            raise TooLong from None
        finally:
            timer.cancel()

    def close(self) -> None:
        """Any thread: one that asks gets TooLong."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()
        self._process.wait()


def read(pipe: IO[bytes], size: int) -> bytes:
    """Raises TooLong if the pipe ends before."""
    data = pipe.read(size)
    if len(data) < size:
        raise TooLong
    return data


class Prober:
    """A pool of children, one per asking thread. Any thread."""

    def __init__(self) -> None:
        self._idle: list[Child] = []
        self._busy: set[Child] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def check(self, source: str, param: str) -> None:
        """Raises InvalidRequest, about `param`, if the source is wrong or takes too long, and
        QueueFull if no child can be started."""
        child = self._take()
        try:
            problem = child.ask(source)
        except TooLong:
            problem = "it takes too much time or memory; simplify it"
        finally:
            self._give_back(child)
        if problem:
            raise compile_error(problem, source, param)

    def close(self) -> None:
        """Kills all children, busy ones too."""
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
                    f"The grammar can't be checked now ({error}); try again later.",
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
