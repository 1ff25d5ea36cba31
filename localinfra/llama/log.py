"""llama.cpp's log → Python's, keeping the last errors for error messages."""

import ctypes
import functools
import logging
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from localinfra.interpreter import eager_switches
from localinfra.llama.library import llama_cpp

logger = logging.getLogger("localinfra.llama")

# ggml's levels: 1 debug, 2 info, 3 warning, 4 error, 5 continues the previous line
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.ERROR}
_recent_errors: deque[str] = deque(maxlen=4)
_last_level = logging.DEBUG
_collecting = threading.local()  # `.lines` and `.warnings`: where this thread's go

# Who hears llama.cpp: its log has one callback for the whole process.
_lock = threading.Lock()
_has_heard = False
_silent_thread: int | None = None

Warnings = list[tuple[int, str]]  # Python's level and the line


def recent_errors() -> str:
    """Returns the latest error lines, joined, and clears them; '' if there were none."""
    text = "; ".join(_recent_errors)
    _recent_errors.clear()
    return text


@contextmanager
def collected() -> Iterator[list[str]]:
    """The lines that calls of this thread log in the block; none where it is silenced. llama.cpp
    logs a load on the thread that called it."""
    hear()
    _collecting.lines = []
    # It logs a thousand lines for a small model, each of which waits for the interpreter: beside a
    # thread that always computed, a load of 0.1 s took 4 s.
    with eager_switches():
        try:
            yield _collecting.lines
        finally:
            _collecting.lines = None


@contextmanager
def noted() -> Iterator[Warnings]:
    """The warnings and errors that calls of this thread log in the block, to `say` them again."""
    _collecting.warnings = []
    try:
        yield _collecting.warnings
    finally:
        _collecting.warnings = None


@contextmanager
def silenced() -> Iterator[bool]:
    """Whether llama.cpp says nothing in the block: for a load that is known to go well, since each
    of the two thousand lines of a small model waits for the interpreter while others import.
    It is so for the first load of a process alone, when no other could miss its lines, and only
    until another thread loads something too."""
    global _has_heard, _silent_thread
    with _lock:
        is_silent = not _has_heard and not logger.isEnabledFor(logging.DEBUG)
        if is_silent:
            _has_heard, _silent_thread = True, threading.get_ident()
            llama_cpp.llama_log_set(NOTHING, ctypes.c_void_p(0))
    try:
        yield is_silent
    finally:
        with _lock:
            if is_silent:
                _silent_thread = None
                install()


def hear() -> None:
    """Ends the silence of other threads."""
    global _has_heard, _silent_thread
    with _lock:
        _has_heard = True
        if _silent_thread not in (None, threading.get_ident()):
            _silent_thread = None
            install()


def say(warnings: Warnings) -> None:
    for level, line in warnings:
        logger.log(level, "%s", line)


def _nothing() -> Any:
    """A callback that needs no interpreter: C's `abs` reads its first argument, the level, and
    leaves the others to the caller, as all calling conventions of C do."""
    library = ctypes.CDLL("msvcrt" if os.name == "nt" else None)
    return ctypes.cast(library.abs, llama_cpp.llama_log_callback)


NOTHING = _nothing()


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
    if (
        _last_level >= logging.INFO
        and (worth := getattr(_collecting, "warnings", None)) is not None
    ):
        worth.append((_last_level, line))
    logger.log(_last_level, "%s", line)


@functools.cache
def init_library() -> None:
    install()
    llama_cpp.llama_backend_init()


def install() -> None:
    """Redirects the log of the whole library; the module keeps the callback alive."""
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
