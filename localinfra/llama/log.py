"""llama.cpp's log → Python's, keeping the last errors for error messages."""

import ctypes
import logging
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from localinfra.interpreter import eager_switches
from localinfra.llama.library import llama_cpp

logger = logging.getLogger("localinfra.llama")

# ggml's levels: 1 debug, 2 info, 3 warning, 4 error, 5 continues the previous line
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.ERROR}
_recent_errors: deque[str] = deque(maxlen=4)
_last_level = logging.DEBUG
_collecting = threading.local()  # `.lines`: where this thread's go


def recent_errors() -> str:
    """Returns the latest error lines, joined, and clears them; '' if there were none."""
    text = "; ".join(_recent_errors)
    _recent_errors.clear()
    return text


@contextmanager
def collected() -> Iterator[list[str]]:
    """The lines that calls of this thread log in the block. llama.cpp logs a load on the thread
    that called it."""
    _collecting.lines = []
    # It logs a thousand lines for a small model, each of which waits for the interpreter: beside a
    # thread that always computed, a load of 0.1 s took 4 s.
    with eager_switches():
        try:
            yield _collecting.lines
        finally:
            _collecting.lines = None


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator] # llama_cpp has no annotations
def callback(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    global _last_level
    _last_level = _LEVELS.get(level, _last_level)
    if level == 1 and not logger.isEnabledFor(logging.DEBUG):  # most lines of a load
        return
    line = text.decode("utf-8", "replace").strip()
    if not line:
        return
    if _last_level >= logging.ERROR:
        _recent_errors.append(line)
    if (lines := getattr(_collecting, "lines", None)) is not None:
        lines.append(line)
    logger.log(_last_level, "%s", line)


def install() -> None:
    """Redirects the log of the whole library; the module keeps the callback alive."""
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
