"""Child processes that end with their parent, however it ends, and that give way to it.

The parent holds the write end of the child's stdin open. A child calls `end_with_parent` first.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from typing import NamedTuple

from localinfra.scratch import memory_file

PR_SET_PDEATHSIG = 1  # prctl(2)
# Popen's `creationflags` that keep Ctrl-C from a child: what a session of its own does elsewhere.
OWN_GROUP: int = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)


def module_command(name: str) -> list[str]:
    """The command that runs one of our modules. Nothing is imported from the working directory,
    unless this process was started so."""
    by_module = getattr(sys.modules["__main__"], "__spec__", None) is not None
    is_safe = sys.flags.safe_path or not by_module
    return [sys.executable, *(["-P"] if is_safe else []), "-m", name]


class Ended(NamedTuple):
    """A child."""

    status: int
    out: bytes
    errors: bytes
    hung: bool  # and so was killed


def result_of(command: list[str], limit_s: float) -> Ended:
    """Runs one of our modules that may crash, and that calls `end_with_parent`. It is killed after
    `limit_s`."""
    hangs = threading.Event()

    def end() -> None:
        hangs.set()
        process.kill()

    with memory_file() as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # open while this process lives
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C must not end it first
            creationflags=OWN_GROUP,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},  # llama.cpp's backtrace starts a debugger
        )
        timer = threading.Timer(limit_s, end)
        timer.daemon = True
        timer.start()
        try:
            with process:
                assert process.stdout
                out = process.stdout.read()
        finally:
            timer.cancel()
        log.seek(0)
        return Ended(process.returncode, out, log.read(), hangs.is_set())


def end_with_parent() -> None:
    """Like `follow_parent`. Resets signal handling, since the parent may have been started with
    signals ignored or blocked."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_DFL)
            with contextlib.suppress(AttributeError):  # Windows has no signal masks
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    follow_parent()


def follow_parent() -> None:
    """Ends this process at EOF on stdin, which means that the parent is gone. On Linux the kernel
    kills it too, in case Python is stuck."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_wait_for_the_end, name="parent", daemon=True).start()


def give_way() -> None:
    """Lets this process run only while others leave a core idle. On Linux its reads and writes of
    files wait for theirs too: the I/O class follows the scheduling class."""
    with contextlib.suppress(OSError, AttributeError):  # some sandboxes forbid it; Windows has none
        os.nice(19)
    with contextlib.suppress(OSError, AttributeError):  # Linux alone has this class
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _wait_for_the_end() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os._exit(1)
