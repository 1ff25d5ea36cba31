"""Grammars are tried in a child process, which is killed if one takes too long."""

import threading
import time

import pytest

from localinfra.engine.grammar.prober import Prober
from localinfra.errors import InvalidRequest

ENDLESS = (
    '%llguidance {"no_forcing": true}\n'
    'start: %json {"type": "integer", "multipleOf": 99999989}'
)  # hours


def test_a_valid_grammar_passes_and_an_invalid_one_is_refused_with_a_reason() -> None:
    prober = Prober()
    prober.check('%llguidance {"no_forcing": true}\nstart: "a" | /b+/', "p")
    with pytest.raises(InvalidRequest, match="nothing") as caught:
        prober.check("%llguidance {}\nstart: nothing", "p")
    assert caught.value.param == "p"
    prober.close()


def test_a_grammar_that_takes_too_long_ends_its_child_and_the_next_gets_another() -> None:
    prober = Prober()
    with pytest.raises(InvalidRequest, match="too much time"):
        prober.check(ENDLESS, "p")
    prober.check('%llguidance {}\nstart: "a"', "p")
    prober.close()


def test_closing_ends_a_running_check() -> None:
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
