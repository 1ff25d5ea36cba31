import sys
import threading

from localinfra.interpreter import SWITCH_S, eager_switches


def test_threads_switch_eagerly_until_the_last_block_has_ended() -> None:
    usual = sys.getswitchinterval()
    assert usual > 10 * SWITCH_S
    begun, may_end = threading.Event(), threading.Event()

    def other() -> None:
        with eager_switches():
            begun.set()
            may_end.wait()

    with eager_switches():
        thread = threading.Thread(target=other)
        thread.start()
        begun.wait()
    assert sys.getswitchinterval() < usual / 10
    may_end.set()
    thread.join()
    assert sys.getswitchinterval() == usual


def test_a_failure_in_the_block_changes_nothing() -> None:
    usual = sys.getswitchinterval()
    try:
        with eager_switches():
            raise KeyError
    except KeyError:
        pass
    assert sys.getswitchinterval() == usual
