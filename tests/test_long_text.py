"""Strings joined in steps are those that one call makes."""

import sys

import pytest

from localinfra import long_text
from localinfra.long_text import join, joined


@pytest.mark.parametrize("last", ["", "z", "é", "Ω", "\uffff", "😀", "\U0010ffff", "\0"])
@pytest.mark.parametrize("first", ["a", "ÿ", "Ж", "🦙"])
def test_any_characters_are_joined(first: str, last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_text, "AT_ONCE_CHARS", 2)
    parts = [first * 3, "", "bc", last, first]
    text, expected = join(parts), "".join(parts)
    assert text == expected and hash(text) == hash(expected)
    assert sys.getsizeof(text) == sys.getsizeof(expected)
    assert text.encode() == expected.encode() and {text: 1}[expected] == 1


def test_halves_of_characters_are_joined_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_text, "AT_ONCE_CHARS", 2)
    assert join(["abc", "\ud83d", "\ude00"]) == "abc\ud83d\ude00"


def test_a_long_text_is_nobody_else_s_and_can_be_given_up() -> None:
    parts = ["word " * 50_000] * 10
    text = join(parts)
    assert text == "".join(parts) and sys.getrefcount(text) <= 3
    steps = joined(parts)
    for _ in range(15):
        next(steps)
    steps.close()  # its memory is given back
