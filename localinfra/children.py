"""Child processes that end with their parent, however it ends.

The parent keeps the writing end of the child's standard input open. A child calls
`end_with_parent` as the first thing it does.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading

PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with_parent() -> None:
    """Ends this process at once when standard input ends, for then the parent has; on Linux the
    system does so too, should Python be held up. Signals are those of a fresh process: they may
    have been ignored or blocked where the parent was started."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_DFL)
            with contextlib.suppress(AttributeError):  # Windows blocks none
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_wait_for_the_end, name="parent", daemon=True).start()


def _wait_for_the_end() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os._exit(1)
