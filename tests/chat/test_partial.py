"""JSON truncated at every place."""

import json

import pytest

from localinfra.chat.partial import completed_object

WHOLE = {
    "a": [1, {"b": 'x\\"y]}', "c": None, "d": []}],
    "e": {"f": -1.5e3, "g": True},
    "h": "é \n",
    "i": [[], {}, [2]],
}


@pytest.mark.parametrize("text", [json.dumps(WHOLE), json.dumps(WHOLE, separators=(",", ":"))])
def test_every_beginning_of_an_object_is_completed_to_one_that_grows(text: str) -> None:
    sizes = []
    for end in range(len(text) + 1):
        value = json.loads(completed_object(text[:end]))
        assert isinstance(value, dict)
        sizes.append(len(json.dumps(value)))
    assert sizes == sorted(sizes)
    assert json.loads(completed_object(text)) == WHOLE


def test_a_truncated_value_is_dropped_with_its_name() -> None:
    for rest in ('"b": tr', '"b', '"b": "x', '"b":', ""):
        assert json.loads(completed_object('{"a": 1, ' + rest)) == {"a": 1}


@pytest.mark.parametrize("text", ["", "nope", "[1", "}}", '{"a" 1', "{]"])
def test_text_that_is_no_object_gives_an_empty_one(text: str) -> None:
    assert completed_object(text) == "{}"
