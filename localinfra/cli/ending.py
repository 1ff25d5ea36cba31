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


def end_within(status: int, limit_s: float = LEAVING_LIMIT_S) -> None:
    """Ends the process with this status after so long, unless it has ended by itself."""
    timer = threading.Timer(limit_s, _end, (status,))
    timer.daemon = True
    timer.name = "deadline"
    timer.start()


def _end(status: int) -> None:
    own = (threading.main_thread(), threading.current_thread())
    names = sorted(thread.name for thread in threading.enumerate() if thread not in own)
    logger.warning("ending without waiting for the threads %s", ", ".join(names)[:500])
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)
