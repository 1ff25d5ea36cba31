"""Exempts long-lived objects from garbage collection until a model is unloaded, puts it off during
imports, and returns memory to the system."""

import ctypes
import gc
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

FULL = 2  # the generation of a full collection
POLL_S = 0.005
TRIM_EVERY_S = 60.0

_lock = threading.Lock()  # freezing while another thread collects would keep its garbage forever
_pauses = 0


@contextmanager
def paused() -> Iterator[None]:
    """Nothing is collected in the block, nor in blocks of other threads that overlap with it, and
    what is alive after it is exempt. For imports: they make many objects and hardly any garbage,
    and collections took a twentieth of a server's start."""
    global _pauses
    with _lock:
        _pauses += 1
        gc.disable()
    try:
        yield
    finally:
        with _lock:
            _pauses -= 1
            if not _pauses:
                gc.freeze()
                gc.enable()


def freeze() -> None:
    """Exempts every object alive now: modules, vocabularies, weights. Scanning them in each full
    collection would stop all threads for 10 to 15 ms."""
    with _lock:
        gc.freeze()


def collect() -> None:
    """Frees what is unreachable, frozen or not, and freezes the rest.

    Hooks that libraries put on torch modules make reference cycles, so only this frees unused
    weights.
    """
    with _lock:
        gc.unfreeze()
        # `gc.collect` returns at once, having done nothing, while another thread collects.
        while not _has_collected():
            time.sleep(POLL_S)
        gc.freeze()


def trim() -> None:
    """Gives freed memory back to the system. glibc keeps most of it otherwise: 180 MiB after 140
    loads of small models (`scripts/bench_swap`)."""
    if sys.platform == "linux":
        malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if malloc_trim is not None:
            malloc_trim(0)


@contextmanager
def trimmed() -> Iterator[None]:
    """Trims once a minute while the block goes on. Blocks that grow, as copies of longer and longer
    conversations do, leave holes that are too small for the next one: after half an hour of
    `scripts/soak` one arena had 66 MiB, 62 of them free, and grew on. It took 0.7 ms to give 12
    MiB back.
    """
    is_over = threading.Event()

    def work() -> None:
        while not is_over.wait(TRIM_EVERY_S):
            trim()

    thread = threading.Thread(target=work, name="trim", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _has_collected() -> bool:
    thread, is_done = threading.get_ident(), False

    def note(phase: str, info: dict[str, int]) -> None:
        nonlocal is_done
        if phase == "stop" and info["generation"] == FULL and threading.get_ident() == thread:
            is_done = True

    gc.callbacks.append(note)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(note)
    return is_done
