"""Strings joined in steps are those that one call makes."""

import sys

import pytest

from localinfra import long_text
from localinfra.long_text import decoded, join, join_bytes, joined, joined_bytes
from localinfra.steps import done


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


@pytest.mark.parametrize("at_once", [2, 3, 100])
def test_bytes_are_joined_too(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_text, "AT_ONCE_CHARS", at_once)
    parts: list[bytes | memoryview] = [b"abc\0", b"", memoryview(b"defghij")[1:], b"\xff"]
    data = join_bytes(parts)
    assert data == b"".join(parts) and type(data) is bytes
    assert hash(data) == hash(b"".join(parts)) and sys.getrefcount(data) <= 3
    assert join_bytes([]) == b""


def test_long_bytes_are_joined_in_steps_and_can_be_given_up() -> None:
    parts = [b"word " * 50_000] * 10
    assert sum(1 for _ in joined_bytes(parts)) >= 10
    steps = joined_bytes(parts)
    for _ in range(5):
        next(steps)
    steps.close()


@pytest.mark.parametrize("at_once", [1, 2, 3, 5, 100])
def test_bytes_are_decoded_wherever_they_are_cut(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_text, "AT_ONCE_CHARS", at_once)
    for text in ("", "a", "aé日🦙" * 3):
        assert done(decoded(text.encode())) == text
    for wrong in (b"\xff", b"a\xe2\x82", b"\xe2\x82a", b"\xed\xa0\x80"):
        with pytest.raises(UnicodeDecodeError):
            done(decoded(wrong))
