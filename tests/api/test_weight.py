"""How many values a body holds, however it is split."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localinfra.api.http.weight import MAX_DEPTH, MAX_NESTED, MAX_TOKEN_IDS, MAX_VALUES, Weight
from localinfra.errors import BodyTooLarge

TEXTS = st.text(alphabet='",:[]{}\\/ab\n\u00e9', max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 999) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def commas(value: object) -> int:
    items = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(items, list):
        return 0
    return max(0, len(items) - 1) + sum(map(commas, items))


def nested(value: object) -> int:
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(nested, value.values()))
    return 1 + sum(map(nested, value)) if isinstance(value, list) else 0


@settings(max_examples=200, deadline=None)
@given(JSON, st.integers(1, 9), st.booleans())
def test_the_content_of_strings_is_not_counted(value: object, size: int, plain: bool) -> None:
    body = json.dumps(value, ensure_ascii=plain).encode()
    weight = Weight()
    for at in range(0, len(body), size):
        weight.add(body[at : at + size])
    weight.finish()
    assert (weight.num_values, weight.num_nested) == (1 + commas(value), nested(value))


@pytest.mark.parametrize(
    "text",
    ["a, b " * 3_000_000, '\\",[' * 3_000_000, "\\\\" * 8_000_000, "\\u002c[{" * 1_000_000],
    ids=["commas", "quotes", "backslashes", "coded commas"],
)
def test_a_text_of_any_length_is_one_value(text: str) -> None:
    weight = Weight()
    weight.add(b'{"a":"%b"}' % text.encode())
    weight.finish()
    assert (weight.num_values, weight.num_nested) == (1, 2)


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"1," * MAX_VALUES,
        b"[" + b'"",' * MAX_VALUES,
        b"[" * (MAX_NESTED + 1),
        b"[" + b"{}," * MAX_NESTED,
        b"{" + b'"a":1,' * MAX_NESTED,
        b'{"a":"\\\\",' + b'"b":1,' * MAX_NESTED,
        b"[" + (b"9" * 4000 + b",") * 1000,
        b"9" * 1_000_000,
        b"[" + b"1e300," * 1000,
        b"[" + b"-4.9E-324," * 1000,
        b"[" + (b"9" * 127 + b",") * 10_000,
        b"[" + (b"-" + b"3" * 47 + b",") * 40_000,
        b"[" + (b"0." + b"0" * 100 + b"17,") * 10_000,
        b"[" + (b"9" * 23 + b"e-99,") * 10_000,
        b"[" + b"1.2345678901234567891E0010," * 10_000,
    ],
)
@pytest.mark.parametrize("size", [100, 1 << 20])
def test_a_body_that_takes_too_long_to_decode_is_refused(body: bytes, size: int) -> None:
    """However small its chunks are."""
    weight = Weight()
    with pytest.raises(BodyTooLarge, match="too many values"):
        for at in range(0, len(body), size):
            weight.add(body[at : at + size])
        weight.finish()


@pytest.mark.parametrize(
    ("body", "max_values"),
    [
        (b"[%b]" % b",".join([b"100000"] * MAX_TOKEN_IDS), MAX_TOKEN_IDS),
        (b"[%b]" % b",".join([b'{"role":"user","content":"Hi"}'] * 40_000), MAX_VALUES),
        (b"[%b]" % b",".join([b"0.12345678901234567"] * 200_000), MAX_VALUES),
        (b"[%b]" % b",".join([b"1.5e-05,true,false"] * 60_000), MAX_VALUES),
        (b"[%b]" % b",".join([b"0.0000012345678901234567"] * 200_000), MAX_VALUES),
        (b"9" * 5000, MAX_VALUES),
    ],
)
def test_usual_bodies_are_accepted(body: bytes, max_values: int) -> None:
    weight = Weight(max_values)
    weight.add(body)
    weight.finish()


def test_a_body_that_ends_in_a_string_does_not_affect_the_next() -> None:
    weight = Weight()
    weight.add(b'["')
    weight.finish()
    with pytest.raises(BodyTooLarge):
        weight.add(b"[" + b"1," * MAX_VALUES)
        weight.finish()


@pytest.mark.parametrize("opening, closing", [(b"[", b"]"), (b'{"a[":', b"}"), (b'[{"":', b"}]")])
@pytest.mark.parametrize("size", [7, 1 << 20])
def test_levels_are_counted_wherever_they_are(opening: bytes, closing: bytes, size: int) -> None:
    def is_too_deep(num_levels: int) -> bool:
        num_pairs = num_levels // len(closing)
        deep = opening * num_pairs + b"1" + closing * num_pairs
        body = b"[%b]" % b",".join([b"[[{}],{}]"] * 20_000 + [deep])
        weight = Weight()
        for at in range(0, len(body), size):
            weight.add(body[at : at + size])
        weight.finish()
        return weight.is_too_deep

    assert not is_too_deep(MAX_DEPTH - 2)
    assert is_too_deep(MAX_DEPTH + 2)


def test_levels_in_a_text_of_a_form_do_not_add_to_the_next() -> None:
    weight = Weight()
    for _ in range(3):
        weight.add(b"[" * (MAX_DEPTH - 1))
        weight.finish()
    assert not weight.is_too_deep


def test_files_in_strings_are_told_from_text() -> None:
    file, words = "iVBORw0KGgo" * 30_000, "a picture of words " * 20_000
    other = "\u7535" * 5_000
    for text, least, most in ((file, 329_000, 330_000), (words, 0, 0), (other, 0, 0)):
        for plain in (True, False):
            weight = Weight()
            weight.add(json.dumps({"text": "hi", "url": text}, ensure_ascii=plain).encode())
            weight.finish()
            assert least <= weight.num_data <= most
