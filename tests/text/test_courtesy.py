"""An encoder lets the engine read what it has encoded, but does not wait for it forever."""

from collections.abc import Callable

import pytest

from localinfra.text.courtesy import HANDOVER, POLL_S, Company, Courtesy

NONE, READING, ANSWERING = Company
PART_S = 1.0


class Scene:
    """An encoder whose parts take a second each, by a clock of its own. `company_at`: what the
    engine does at a time."""

    def __init__(self, company_at: Callable[[float], Company]):
        self.now_s, self.num_checks = 100.0, 0
        self.courtesy = Courtesy(
            lambda: company_at(self.now_s - 100), lambda: self.now_s, self.wait
        )

    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    def check(self) -> None:
        self.num_checks += 1

    def waited(self) -> float:
        """Seconds before the next part."""
        began_s = self.now_s
        self.courtesy.give_way(self.check)
        return self.now_s - began_s

    def picture(self, num_tiles: int = 1) -> list[float]:
        """Encodes one; returns how long it waited before each tile."""
        waits = []
        for _ in range(num_tiles):
            waits.append(self.waited())
            self.wait(PART_S)
        self.courtesy.ended()
        return waits


def close_to(seconds: float) -> object:
    return pytest.approx(seconds, abs=1.5 * POLL_S)


def test_a_picture_alone_waits_for_nobody() -> None:
    scene = Scene(lambda at: NONE)
    assert scene.picture() == [0]
    scene.wait(PART_S)
    assert scene.picture(3) == [0, 0, 0]


def test_a_prompt_whose_picture_was_just_encoded_is_read_before_the_next_picture() -> None:
    """It reaches the engine a moment after, and takes 0.2 s."""
    scene = Scene(lambda at: READING if 1.01 < at < 1.2 else NONE)
    assert scene.picture() == [0]
    assert scene.picture() == [close_to(0.2)]


def test_where_no_prompt_comes_the_next_picture_waits_for_a_moment() -> None:
    scene = Scene(lambda at: NONE)
    assert [scene.picture() for _ in range(2)] == [[0], [close_to(HANDOVER * PART_S)]]


def test_prompts_without_end_get_half_of_the_time() -> None:
    scene = Scene(lambda at: READING)
    assert scene.picture(3) == [0, close_to(PART_S), close_to(PART_S)]
    assert scene.picture() == [close_to(PART_S)]
    assert scene.courtesy.has_company


def test_answers_are_not_waited_for_but_get_cores() -> None:
    scene = Scene(lambda at: ANSWERING)
    assert [scene.picture() for _ in range(2)] == [[0], [0]]
    assert scene.courtesy.has_company


def test_who_waits_can_be_stopped() -> None:
    scene = Scene(lambda at: READING)
    scene.picture()
    before = scene.num_checks

    def check() -> None:
        scene.check()
        if scene.num_checks == before + 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        scene.courtesy.give_way(check)
    assert scene.num_checks == before + 5
