"""Ends the process in time once all is closed, even if threads still run.

Python waits forever for executor threads, and one in a library's C code can't be stopped.
"""

import logging
import os
import sys
import threading

from localinfra import outlet

logger = logging.getLogger(__name__)

LEAVING_LIMIT_S = 3.0
OURS = ("load ", "unload ", "engine ", "embed ", "image ")  # prefixes of model threads' names


def end_within(status: int, limit_s: float = LEAVING_LIMIT_S) -> None:
    """Ends the process with this status after `limit_s`, unless it has ended by then."""
    timer = threading.Timer(limit_s, _end, (status,))
    timer.daemon = True
    timer.name = "deadline"
    timer.start()


def leave(status: int) -> None:
    """Ends the process at once if a model's thread still runs: one that calls Python from a
    library's C code while the interpreter finalizes would crash the process."""
    if any(thread.name.startswith(OURS) for thread in _others()):
        _end(status)


def _others() -> list[threading.Thread]:
    own = (threading.main_thread(), threading.current_thread())
    return [
        thread
        for thread in threading.enumerate()
        if thread not in own
        and thread.name != outlet.THREAD
        and not isinstance(thread, threading.Timer)
    ]


def _end(status: int) -> None:
    names = sorted(thread.name for thread in _others())
    logger.warning("exiting without waiting for the threads %s", ", ".join(names)[:500])
    logging.shutdown()
    if sys.stdout:  # a parent may have closed it
        sys.stdout.flush()
    outlet.settle()
    os._exit(status)
