"""A deadline for the end of the process when all is closed, whatever its threads do.

Python waits for the threads of executors without end, and one in a library's C code can't be
stopped.
"""

import logging
import os
import sys
import threading

logger = logging.getLogger(__name__)

LEAVING_LIMIT_S = 3.0
OURS = ("load ", "unload ", "engine ", "embed ", "image ")  # names of models' threads


def end_within(status: int, limit_s: float = LEAVING_LIMIT_S) -> None:
    """Ends the process with this status after so long, unless it has ended by itself."""
    timer = threading.Timer(limit_s, _end, (status,))
    timer.daemon = True
    timer.name = "deadline"
    timer.start()


def leave(status: int) -> None:
    """Ends the process at once where a model's thread was left behind: one that calls Python from a
    library's C code while the interpreter ends takes the process down with a fault."""
    if any(thread.name.startswith(OURS) for thread in _others()):
        _end(status)


def _others() -> list[threading.Thread]:
    own = (threading.main_thread(), threading.current_thread())
    return [
        thread
        for thread in threading.enumerate()
        if thread not in own and not isinstance(thread, threading.Timer)
    ]


def _end(status: int) -> None:
    names = sorted(thread.name for thread in _others())
    logger.warning("ending without waiting for the threads %s", ", ".join(names)[:500])
    logging.shutdown()
    if sys.stdout:  # a parent may have closed it
        sys.stdout.flush()
    os._exit(status)
