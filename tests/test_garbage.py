"""Garbage of models that leave, whatever other threads collect meanwhile."""

import gc
import threading
import weakref

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
