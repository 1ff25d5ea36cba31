"""Large bodies are decoded in steps: the values are those of one call, wherever the body is cut."""

import json
import random
from typing import Any

import msgspec
import pytest

from localinfra.chat import decoding
from localinfra.chat.decoding import PIECE_BYTES, values_of
from localinfra.steps import done

TEXTS = [
    "",
    "a,b",
    'x"y\\',
    "é\n😀",
    "\\\\",
    "\u0001[]{}:,",
    "word " * 12,
    "é" * 30,
    "😀" * 20,
    "\\" * 31,
    '"' * 30,
]


def value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(8 if depth < 5 else 5)
    if kind < 2:
        return chance.choice(TEXTS)
    if kind < 5:
        return chance.choice([1000, -1.5, None, True])
    if kind < 6:
        return [value(chance, depth + 1) for _ in range(chance.randrange(6))]
    names = ["a", "b", "kk" * 30, "k" * 40, '\n"']  # some twice in an object
    pairs = [(chance.choice(names), value(chance, depth + 1)) for _ in range(chance.randrange(6))]
    return dict(pairs)


def doubled(text: bytes, chance: random.Random) -> bytes:
    """JSON in which some names of objects stand twice."""
    if chance.random() < 0.3:
        return text.replace(b'"b"', b'"a"').replace(b"k" * 60, b"k" * 40)
    return text


DAMAGE = [
    b"",
    b",",
    b"]",
    b"}",
    b"{",
    b'"',
    b"\\",
    b"\xff",
    b"1",
    b":",
    b"\\ud83d",
    b"[",
    b" " * 99,
]


def damaged(text: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(text) + 1)
        text = text[:at] + chance.choice(DAMAGE) + text[at + chance.randrange(3) :]
    return text


def outcome(read: Any) -> Any:
    try:
        return read()
    except (ValueError, RecursionError) as error:
        return type(error)


@pytest.mark.parametrize("seed", range(8))
def test_any_json_is_read_as_in_one_call(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    for _ in range(400):
        size = chance.choice([20, 24, 30, 41, 70, 200])
        monkeypatch.setattr(decoding, "AT_ONCE_BYTES", size)
        monkeypatch.setattr(decoding, "PIECE_BYTES", size)
        monkeypatch.setattr(decoding, "MAX_PIECE_BYTES", size * chance.choice([1, 2, 5]))
        given = {"q": value(chance), "z": value(chance), "y": value(chance)}
        given = given if chance.random() < 0.9 else value(chance)
        text = json.dumps(
            given, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, 1])
        ).encode()
        text = doubled(text, chance)
        whole, expected = done(values_of(text)).whole, msgspec.json.decode(text)
        assert json.dumps(whole) == json.dumps(expected), text  # in this order
        text = damaged(text, chance)
        expected = outcome(lambda text=text: msgspec.json.decode(text))
        assert outcome(lambda text=text: done(values_of(text)).whole) == expected, text


LONG = 8 * PIECE_BYTES


@pytest.mark.parametrize("unit", ["a", "\n", '"', "\\", "é", "😀", "\\n", "a\n", "\ud83d\ude00x"])
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_a_long_string_is_whole(unit: str, ensure_ascii: bool) -> None:
    text = unit.encode("utf-16", "surrogatepass").decode("utf-16") * (LONG // 2)
    for name in (f"{shift * 'x'}" for shift in range(3)):
        given = {name: [text, {"b": text[:-1]}, "c"], text: "d"}
        body = json.dumps(given, ensure_ascii=ensure_ascii).encode()
        assert done(values_of(bytearray(body))).whole == given


def test_a_long_string_may_be_all_there_is() -> None:
    text = "word " * LONG
    assert done(values_of(b' "%b" ' % text.encode())).whole == text


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"%b\\x"}' % (b"b" * LONG),
        b'{"a":"%b\n"}' % (b"b" * LONG),
        b'{"a":[%b],,}' % (b"1," * LONG + b"1"),
        b'{"a":[%b]}]' % (b"1," * LONG + b"1"),
        b"[%b,x]" % (b"[1]," * LONG + b"1"),
    ],
    ids=["escape", "control character", "comma", "bracket", "letter"],
)
def test_errors_name_the_byte_of_the_body(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError, match=r"\(byte \d{6,}\)$") as expected:
        msgspec.json.decode(body)
    with pytest.raises(msgspec.DecodeError) as caught:
        done(values_of(body))
    assert str(caught.value) == str(expected.value)


def test_errors_name_no_place_in_a_piece() -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        done(values_of(b'{"a":[%b{"b":1e400}]}' % (b"1," * LONG)))
    assert str(caught.value) == "Number out of range"


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"%b"}' % (b"\\n" * (2 * LONG)),
        b'{"a":[%b1]}' % (b"1," * LONG),
        b'{"a":%b1}' % (b" " * (4 * LONG)),
        b"[%b1]" % (b'{"a":[[{}]]},' * LONG),
        b'{%b"a":1}' % b"".join(b'"%d":"\\n%d",' % (at, at) for at in range(LONG // 4)),
    ],
    ids=["string", "numbers", "blanks", "nested", "names"],
)
def test_no_step_takes_more_than_a_few_pieces(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    decode = msgspec.json.decode

    def counted(text: bytes, **more: Any) -> Any:
        sizes.append(len(text))
        return decode(text, **more)

    monkeypatch.setattr(msgspec.json, "decode", counted)
    steps = values_of(body)
    num_steps = sum(1 for _ in steps)
    assert sum(sizes) < 1.5 * len(body) + PIECE_BYTES
    assert max(sizes) < 3 * PIECE_BYTES and num_steps >= len(body) // (2 * PIECE_BYTES)


@pytest.mark.parametrize("filling", [b'"', b'"a" ', b'\\\\"'])
@pytest.mark.parametrize("start", [b"", b"[1,", b'{"a":["b', b'["", "'])
def test_what_is_no_json_is_not_looked_at_further(start: bytes, filling: bytes) -> None:
    body = start + filling * (100 * PIECE_BYTES)
    with pytest.raises(msgspec.DecodeError) as expected:
        msgspec.json.decode(body)
    num_steps = 0
    with pytest.raises(msgspec.DecodeError) as caught:
        for _ in values_of(body):
            num_steps += 1
    assert str(caught.value) == str(expected.value) and num_steps < 5
