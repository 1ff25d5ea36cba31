"""Garbage of models that leave, whatever other threads collect meanwhile."""

import ctypes
import gc
import sys
import threading
import weakref
from pathlib import Path

import pytest
from waiting import wait_for

from localinfra import garbage


class Knot:
    """In a cycle with itself; says when it goes, and takes its time."""

    def __init__(self, on_end: object = None):
        self.itself = self
        self.on_end = on_end

    def __del__(self) -> None:
        if callable(self.on_end):
            self.on_end()


def test_frozen_garbage_is_freed() -> None:
    knot = Knot()
    gone = weakref.ref(knot)
    garbage.freeze()
    del knot
    gc.collect()
    assert gone() is not None, "frozen, so this test shows something"
    garbage.collect()
    assert gone() is None


def test_garbage_is_freed_even_while_another_thread_collects() -> None:
    has_begun, may_end = threading.Event(), threading.Event()

    def linger() -> None:
        has_begun.set()
        may_end.wait()

    slow, frozen = Knot(linger), Knot()
    gone = weakref.ref(frozen)
    gc.disable()  # or it goes in this thread
    try:
        del slow
        other = threading.Thread(target=gc.collect)
        other.start()
        has_begun.wait()
        garbage.freeze()
        del frozen
        collecting = threading.Thread(target=garbage.collect)
        collecting.start()
        collecting.join(0.05)
        assert collecting.is_alive() and gone() is not None
        may_end.set()
        collecting.join()
        other.join()
    finally:
        gc.enable()
    assert gone() is None


def test_pauses_of_two_threads_may_overlap() -> None:
    with garbage.paused():
        other, may_end = threading.Event(), threading.Event()

        def pause() -> None:
            with garbage.paused():
                other.set()
                may_end.wait()

        thread = threading.Thread(target=pause)
        thread.start()
        other.wait()
    assert not gc.isenabled(), "the other's block goes on"
    may_end.set()
    thread.join()
    assert gc.isenabled()


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps what is freed")
def test_holes_between_blocks_that_live_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "TRIM_EVERY_S", 0.01)
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    blocks = []
    for _ in range(1000):
        blocks.append(libc.malloc(100_000))  # small enough for an arena
        ctypes.memset(blocks[-1], 1, 100_000)
    for block in blocks[::2]:
        libc.free(block)
    before = anonymous_kib()
    with garbage.trimmed():
        wait_for(lambda: anonymous_kib() < before - 30_000)
    for block in blocks[1::2]:
        libc.free(block)


def anonymous_kib() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("Anonymous:")]
    return int(line.split()[1])
