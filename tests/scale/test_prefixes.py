"""Hashes of how prompts begin: what continues a conversation, and what only looks like it."""

import re

import msgspec
import pytest

from localinfra.api.http.body import FIELDS
from localinfra.scale.prefixes import (
    BLOCK_BYTES,
    MOST_BORDERS,
    PromptStart,
    prefix_of,
    without_moving,
)


def prefix(**fields: object) -> PromptStart:
    return prefix_of(FIELDS.decode(msgspec.json.encode(fields)), "key")


def user(text: str) -> dict[str, object]:
    return {"role": "user", "content": text}


SYSTEM = {"role": "system", "content": "Be brief."}
ANSWER = {"role": "assistant", "content": "Behind the hill."}


@pytest.mark.parametrize("field", ["messages", "input"])
def test_the_next_turn_has_all_borders_of_the_one_before(field: str) -> None:
    first = prefix(**{field: [SYSTEM, user("Where?")]})
    second = prefix(**{field: [SYSTEM, user("Where?"), ANSWER, user("And the bridge?")]})
    assert second.borders[: len(first.borders)] == first.borders
    assert first.origin and first.origin == second.origin


def test_other_instructions_tools_or_keys_share_nothing() -> None:
    base = prefix(messages=[SYSTEM, user("Where?")])
    raw = msgspec.Raw(msgspec.json.encode([SYSTEM, user("Where?")]))
    assert prefix_of({"messages": raw}, "key") == base
    others = [
        prefix(messages=[{"role": "system", "content": "Be kind."}, user("Where?")]),
        prefix(messages=[SYSTEM, user("Where?")], tools=[{"type": "function"}]),
        prefix_of({"messages": raw}, "another key"),
    ]
    for other in others:
        assert not set(base.borders) & set(other.borders)


def test_the_same_instructions_make_no_conversation() -> None:
    one, other = prefix(messages=[SYSTEM, user("A")]), prefix(messages=[SYSTEM, user("B")])
    assert one.borders[0] == other.borders[0]
    assert one.origin != other.origin and one.own_from == 2


def test_marks_that_anthropics_clients_move_change_nothing() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    part = {"type": "text", "text": "Where?"}
    first = prefix(messages=[{"role": "user", "content": [part | mark]}])
    second = prefix(messages=[{"role": "user", "content": [part]}, ANSWER, user("More")])
    assert first.borders[0] == second.borders[0]


def test_a_prompt_that_goes_on_is_known_by_its_blocks() -> None:
    story = "Once upon a time. " * BLOCK_BYTES
    first, second = prefix(prompt=story), prefix(prompt=story + "And then?")
    assert set(first.borders) <= set(second.borders)
    assert second.own_from <= len(first.borders)
    few_shots = prefix(prompt=story[: BLOCK_BYTES * 3] + "x" * BLOCK_BYTES * 9)
    assert few_shots.own_from > len(set(few_shots.borders) & set(first.borders)) > 0


def test_messages_cut_otherwise_are_others() -> None:
    assert prefix(messages=["ab", "c"]).borders[1:] != prefix(messages=["a", "bc"]).borders[1:]


@pytest.mark.parametrize(
    "fields",
    [{}, {"messages": None}, {"messages": 7}, {"messages": []}, {"prompt": ""}, {"input": "short"}],
)
def test_bodies_without_a_usable_prompt_have_no_prefix(fields: dict[str, object]) -> None:
    assert prefix(**fields).borders == () and prefix(**fields).origin == b""


def test_endless_conversations_stop_to_count() -> None:
    assert len(prefix(messages=[user("a")] * (2 * MOST_BORDERS)).borders) == MOST_BORDERS


@pytest.mark.parametrize(
    "raw", [b'[{"role": 1}]', b"[1, [2]]", b'["\xff"]', b"[" * 5000, b'"\xff"']
)
def test_wrong_values_are_left_to_the_replica(raw: bytes) -> None:
    prefix_of({"messages": msgspec.Raw(raw)}, "")


@pytest.mark.parametrize("before", [b"", b",", b", ", b",    ", b",     ", b"     ", b'",,\n\t '])
@pytest.mark.parametrize(
    "inside", [b"{}", b' : {"type": "ephemeral"}', b":{ " + b"x" * 199 + b"}", b":{{}}"]
)
def test_marks_leave_with_the_comma_before_them(before: bytes, inside: bytes) -> None:
    whole = re.compile(rb',?\s{0,4}"cache_control"\s{0,4}:\s{0,4}\{[^{}]{0,200}\}')
    one = b'{"a":1' + before + b'"cache_control"' + (inside if b":" in inside else b":" + inside)
    for message in (one, one * 3, one + b"}", b"x" + one[6:]):
        assert without_moving(message) == whole.sub(b"", message)


def test_of_a_list_of_any_length_the_first_items_count() -> None:
    items = list(map(str, range(3 * MOST_BORDERS)))
    assert len(prefix(messages=items).borders) == MOST_BORDERS
    assert prefix(messages=items[:MOST_BORDERS]) == prefix(messages=items)
    assert len(prefix(messages=items[:5]).borders) == 5
