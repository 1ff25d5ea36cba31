"""llama.cpp's log → Python's, and the last errors kept for whoever has to explain a failure."""

import ctypes
import logging
from collections import deque

from llama_cpp import llama_cpp

logger = logging.getLogger("localinfra.llama")

# ggml's levels: 1 debug, 2 info, 3 warning, 4 error, 5 continues the line before
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.ERROR}
_recent_errors: deque[str] = deque(maxlen=4)
_last_level = logging.DEBUG


def recent_errors() -> str:
    """The newest error lines in one, and forgets them; empty where there were none."""
    text = "; ".join(_recent_errors)
    _recent_errors.clear()
    return text


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator] # llama_cpp has no annotations
def _on_log(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    global _last_level
    _last_level = _LEVELS.get(level, _last_level)
    line = text.decode("utf-8", "replace").strip()
    if not line:
        return
    if _last_level >= logging.ERROR:
        _recent_errors.append(line)
    logger.log(_last_level, "%s", line)


def install() -> None:
    """Routes the log of the whole library; the module keeps the callback alive for ever."""
    llama_cpp.llama_log_set(_on_log, ctypes.c_void_p(0))
