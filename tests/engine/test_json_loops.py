"""Loops in free JSON: duplicate names, and repeated items and phrases."""

import base64
import json

import pytest

from localinfra.chat.messages import Json
from localinfra.engine.grammar.json_loops import (
    MAX_DEPTH,
    MAX_MEMBERS,
    MIN_REPEATED,
    MIN_REPEATED_DATA,
    JsonLoops,
    closing_quote,
)


def after(text: str, size: int = 1000, mark: bytes = b"") -> JsonLoops:
    loops = JsonLoops(mark)
    data = text.encode()
    for at in range(0, len(data), size):
        loops.push(data[at : at + size])
    return loops


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_a_name_cannot_occur_twice_in_its_object(size: int) -> None:
    loops = after('{"a": 1, "abc": {"b": [{"a": 1}], "x": "a"}, "ab', size)
    assert loops.name_endings == [b"c"]
    assert sorted(after('{"a": 1, "abc": 2, "', size).name_endings) == [b"a", b"abc"]
    assert not after('{"a": 1, "abc": {"', size).name_endings, "another object"
    assert not after('{"a": 1, "b": "', size).name_endings, "no name but a value"
    assert not after('{"a": [1, "', size).name_endings
    assert after(r'{"a\"b": 1, "a\"', size).name_endings == [b"b"]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("period", [1, 2, 6])
def test_an_array_of_repeated_items_must_end(period: int, size: int) -> None:
    items = [
        json.dumps({"n": f"an item among many others, {n % period}"}) for n in range(MIN_REPEATED)
    ]
    text = '{"a": [' + ", ".join(items) + ", "
    assert after(text, size).is_filled
    assert not after(text[: -len(items[0])], size).is_filled
    other = '{"a": [' + ", ".join([*items[:-3], "7", *items[:3]]) + ", "
    assert not after(other, size).is_filled


def test_an_object_of_repeated_values_must_end() -> None:
    value = '"a creature of the night, with: commas, "'
    members = [f'"description_{n}": {value}' for n in range(MIN_REPEATED)]
    assert after("{" + ", ".join(members) + ", ").is_filled
    assert not after("{" + ", ".join(members)).is_filled
    flags = [f'"flag_{n}": true' for n in range(100)]
    assert not after("{" + ", ".join(flags) + ", ").is_filled


def test_tokens_that_would_add_an_item_to_a_looping_array() -> None:
    loops = after('{"a": [' + '"x", ' * MIN_REPEATED_DATA + '"x')
    for token in (b'",', b'", "', b'y", "z', b'" ,'):
        assert loops.goes_on(token), token
    for token in (b'"', b'"]', b"y", b'"], "b": ['):
        assert not loops.goes_on(token), token
    nested = after('{"a": [' + '{"x": 1}, ' * MIN_REPEATED_DATA + '{"x": 1')
    assert nested.goes_on(b"},") and not nested.goes_on(b', "y"') and not nested.goes_on(b"}]")


def test_containers_are_bounded_in_size_and_depth() -> None:
    many = '{"a": [' + ", ".join(map(str, range(MAX_MEMBERS + 1))) + ", "
    assert after(many).is_filled and not after(many[:-8]).is_filled
    deep = after("[" * MAX_DEPTH)
    assert deep.is_filled and deep.goes_on(b"[[") and not deep.goes_on(b'"[')
    assert not after("[" * (MAX_DEPTH - 1)).is_filled


def test_a_string_of_repeated_phrases_must_end() -> None:
    phrase = "a being of the Aethers, "
    assert after('{"a": "Arachnid, ' + phrase * 50).has_phrase
    assert not after('{"a": "Arachnid, ' + phrase * 30).has_phrase
    words = " ".join(f"word {n}" for n in range(200))
    assert not after('{"a": "' + words).has_phrase
    assert not after('{"a": "' + phrase * 50 + '"').has_phrase
    assert not after('{"a": "' + phrase * 50 + "\\").has_phrase, "an escape wants its letter"


def picture(width: int) -> str:
    return base64.b64encode(bytes(width * width * 4)).decode()


def nested(depth: int) -> Json:
    return [nested(depth - 1)] if depth else 1


HONEST: dict[str, Json] = {
    "zeros": [0] * 300,
    "a matrix": [[0.0] * 40] * 40,
    "flags": [True, False] * 200,
    "nothing known": [None] * 100,
    "a board": [["", "", "", ""]] * 30,
    "a maze": ["#" * 40] * 40,
    "seats": [{"seat": "free"}] * 100,
    "the same answer": ["I must not tell lies."] * 40,
    "base64 of blank pixels": picture(48),
    "a digest": "0" * 64,
    "a line": "-=" * 400,
    "hexadecimal": "deadbeefcafe" * 300,
    "a refrain": "Row, row, row your boat, gently down the stream. " * 12,
    "primes and others": list(range(2000)),
    "columns": {f"c{n}": [0] * 20 for n in range(200)},
    "the same under many names": {f"host-{n}": "https://localhost:8080/v1" for n in range(45)},
    "deep": nested(50),
}


@pytest.mark.parametrize("name", HONEST)
def test_data_may_repeat(name: str) -> None:
    text = json.dumps({"data": HONEST[name]})
    loops = JsonLoops()
    for byte in text.encode():
        data = bytes([byte])
        assert not loops.has_phrase or byte == ord('"')
        assert byte != ord('"') or b"" not in loops.name_endings
        assert not (loops.is_filled and loops.goes_on(data)), len(text)
        loops.push(data)


def test_the_value_begins_after_the_reasoning_if_any() -> None:
    thinking = '<think>{"a": 1, "a": 2}</think>\n{"b": 1, "'
    for size in (1, 4, 1000):
        assert after(thinking, size, b"</think>").name_endings == [b"b"]
        assert after('{"b": 1, "', size, b"</think>").name_endings == [b"b"]


def test_closing_quotes() -> None:
    assert closing_quote(b'ab"c', False) == 2
    assert closing_quote(rb'a\"b"', False) == 4
    assert closing_quote(b'"', True) == -1
    assert closing_quote(b"abc", False) == -1
