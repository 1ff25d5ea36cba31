"""Grammars are tried out in a child, which is ended where one takes too long."""

import threading
import time

import pytest

from localinfra.engine.grammar.prober import Prober
from localinfra.errors import InvalidRequest

ENDLESS = (
    '%llguidance {"no_forcing": true}\n'
    'start: %json {"type": "integer", "multipleOf": 99999989}'
)  # hours


def test_a_sound_grammar_passes_and_a_wrong_one_is_told_what_is_wrong() -> None:
    prober = Prober()
    prober.check('%llguidance {"no_forcing": true}\nstart: "a" | /b+/', "p")
    with pytest.raises(InvalidRequest, match="nothing") as caught:
        prober.check("%llguidance {}\nstart: nothing", "p")
    assert caught.value.param == "p"
    prober.close()


def test_one_that_takes_too_long_ends_its_child_and_the_next_has_another() -> None:
    prober = Prober()
    with pytest.raises(InvalidRequest, match="too much time"):
        prober.check(ENDLESS, "p")
    prober.check('%llguidance {}\nstart: "a"', "p")
    prober.close()


def test_closing_ends_what_is_under_way() -> None:
    prober = Prober()
    prober.check('%llguidance {}\nstart: "a"', "p")
    ended: list[InvalidRequest] = []

    def ask() -> None:
        try:
            prober.check(ENDLESS, "p")
        except InvalidRequest as error:
            ended.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not prober._busy:
        time.sleep(0.001)
    prober.close()
    thread.join(30)
    assert ended and not thread.is_alive() and not prober._busy
