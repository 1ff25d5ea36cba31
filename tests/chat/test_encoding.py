"""Values are encoded in parts, which together are what one call makes."""

import random
from typing import Any

import msgspec
import pytest

from localinfra.chat import encoding
from localinfra.chat.encoding import SLICE_CHARS, all_parts, json_of, json_parts


class Item(msgspec.Struct, omit_defaults=True, tag="item"):
    given: msgspec.Raw
    more: object = None


def text(chance: random.Random) -> str:
    return "".join(chance.choice('a\n"é😀\\') for _ in range(chance.randrange(150)))


def value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(9 if depth < 4 else 5)
    if kind < 2:
        return text(chance)
    if kind < 5:
        return chance.choice([1, None, float("nan"), True])
    if kind < 6:
        items = [value(chance, depth + 1) for _ in range(chance.randrange(5))]
        return chance.choice([list, tuple])(items)
    if kind < 7:
        return Item(msgspec.Raw(b'{"a" : [1, 2]}'), value(chance, depth + 1))
    return {text(chance): value(chance, depth + 1) for _ in range(chance.randrange(5))}


@pytest.mark.parametrize("seed", range(4))
def test_any_value_is_encoded_as_in_one_call(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    for _ in range(300):
        monkeypatch.setattr(encoding, "SLICE_CHARS", chance.choice([50, 70, 90]))
        given = value(chance)
        assert b"".join(all_parts(given)) == msgspec.json.encode(given) == json_of(given)


def test_a_long_string_takes_many_steps() -> None:
    long = "\n" * (20 * SLICE_CHARS)
    given = [long, {long: 1}, Item(msgspec.Raw(b"[]"), (long,))]
    assert sum(1 for _ in json_parts(given)) >= 60
    parts = all_parts(given)
    assert max(map(len, parts)) <= 2 * SLICE_CHARS
    assert b"".join(parts) == msgspec.json.encode(given)
    assert json_of([1, {"a": long}]) == msgspec.json.encode([1, {"a": long}])


def test_what_can_not_be_encoded_is_an_error() -> None:
    with pytest.raises(TypeError, match="object"):
        all_parts({"a": object()})
