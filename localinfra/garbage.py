"""What lives as long as its model is kept from the garbage collector, and looked through again
when a model leaves."""

import gc
import threading
import time

FULL = 2  # the generation that a full collection looks through
POLL_S = 0.005

_lock = threading.Lock()  # freezing while another thread collects would keep its garbage for good


def freeze() -> None:
    """Exempts all that lives now: modules, vocabularies, weights. Looking through them again with
    each full collection stops all threads for 10 to 15 ms."""
    with _lock:
        gc.freeze()


def collect() -> None:
    """Frees what is unreachable, frozen or not, and freezes the rest.

    Libraries' hooks and the modules that they are on know each other, so weights that nobody uses
    go only with this.
    """
    with _lock:
        gc.unfreeze()
        # While another thread collects, `gc.collect` returns at once and has done nothing.
        while not _has_collected():
            time.sleep(POLL_S)
        gc.freeze()


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
