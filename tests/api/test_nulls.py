"""Nulls in optional places, and wrong choices."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from asgi import scope_of
from large_bodies import sample
from msgspec import inspect
from request_structs import (
    ADD,
    BODIES,
    CALL,
    CHAT,
    COMPLETIONS,
    HELLO,
    KINDS,
    MESSAGES,
    PARTS,
    RESPONSES,
    has_default,
    json_of,
    places,
    takes_anything,
    user,
)
from starlette.requests import Request

from localinfra import api
from localinfra.api import tokens
from localinfra.api.generation import tools
from localinfra.api.generation.params import Defaults
from localinfra.api.http.body import decode, decode_within
from localinfra.api.http.liberal import NUMBERED
from localinfra.api.openai.responses.conversation import conversation_request
from localinfra.chat.messages import checked
from localinfra.errors import InvalidRequest


def test_every_body_that_a_route_reads_is_tried_here() -> None:
    files = Path(api.__path__[0]).rglob("*.py")
    begun = r"\.begin(?:_with_form)?\(\s*request, (\w+)"
    read = {name for file in files for name in re.findall(begun, file.read_text("utf-8"))}
    assert read and read <= {kind.__name__ for kind in KINDS}


@pytest.mark.parametrize("kind", [*KINDS, *PARTS], ids=lambda kind: kind.__name__)
def test_a_null_in_an_optional_field_counts_as_absent(
    kind: type[msgspec.Struct],
) -> None:
    num_tried = 0
    for path, info, wrap in places(inspect.type_info(kind)):
        if not isinstance(info, inspect.StructType):
            continue
        for field in info.fields:
            if field.required:
                continue
            with_null = wrap(json_of(info, field, b"null"))
            read = decode(with_null, kind).value
            # Without a default, a null is read but differs from an absent field.
            if has_default(field):
                assert read == decode(wrap(json_of(info)), kind).value, (path, field.encode_name)
            if kind in PARTS and kind is not tools.ToolType:
                assert decode_within("x", json.loads(with_null), kind, []) == read
            num_tried += 1
    assert num_tried or kind is tokens.DetokenizeRequest


@pytest.mark.parametrize("kind", [*KINDS, *PARTS], ids=lambda kind: kind.__name__)
def test_a_null_in_a_list_or_a_map_is_dropped(kind: type[msgspec.Struct]) -> None:
    """Except in lists whose items are answered by index."""
    for path, info, wrap in places(inspect.type_info(kind)):
        if not isinstance(info, inspect.StructType):
            continue
        for field in info.fields:
            for without, with_null in with_nulls(field.type):
                here = (path, field.encode_name)
                body = wrap(json_of(info, field, with_null))
                if here in {("", name) for name in NUMBERED}:
                    with pytest.raises(InvalidRequest):
                        decode(body, kind)
                else:
                    expected = decode(wrap(json_of(info, field, without)), kind).value
                    assert decode(body, kind).value == expected, here


def with_nulls(info: inspect.Type) -> Iterator[tuple[bytes, bytes]]:
    """JSON for a type's lists and maps that take no null, without one and with one."""
    match info:
        case inspect.Metadata():
            yield from with_nulls(info.type)
        case inspect.UnionType():
            for member in info.types:
                yield from with_nulls(member)
        case inspect.ListType() if not takes_anything(info.item_type):
            item = sample(info.item_type)
            yield b"[%b]" % item, b"[null,%b,null]" % item
        case inspect.DictType() if not takes_anything(info.value_type):
            item = sample(info.value_type)
            yield b'{"5":%b}' % item, b'{"4":null,"5":%b}' % item


def test_a_null_among_tools_and_items_is_dropped() -> None:
    for kind in (CHAT, RESPONSES):
        sent: list[Any] = [
            None,
            ADD if kind is RESPONSES else {"type": "function", "function": ADD},
        ]
        body: Any = decode(json.dumps({**BODIES[kind], "tools": sent}).encode(), kind).value
        [tool] = body.answer().use.tools
        assert tool.name == "add" and tool.param.startswith("tools[1].")
    fields = {"model": "m", "input": [None, *HELLO, None], "tools": [None]}
    asked = conversation_request(
        Request(scope_of()), decode(json.dumps(fields).encode(), RESPONSES).value, None, Defaults()
    )
    assert [message.content for message in asked.messages] == ["Hello"]
    assert asked.left_out == []


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        *((CHAT, {name: None}) for name in ("tools", "stop", "metadata", "tool_choice", "stream")),
        (CHAT, {"messages": [{"role": "user", "content": None}]}),
        (CHAT, {"messages": [*HELLO, {"role": "assistant", "content": None, "tool_calls": None}]}),
        (CHAT, {"messages": [*HELLO, {"role": "assistant", "tool_calls": [
            {"id": None, "type": None, "function": {"name": "f", "arguments": None}}]}]}),
        (CHAT, {"response_format": {"type": "text", "json_schema": None}, "n": 1.0}),
        (MESSAGES, {"messages": [*HELLO, {"role": "assistant", "content": None}]}),
        (MESSAGES, {"messages": [*HELLO, {"role": "assistant", "content": [
            {"type": "tool_use", "id": "t", "name": "f", "input": None}]}]}),
        (MESSAGES, {"messages": user({"type": "tool_result", "tool_use_id": "t",
                                      "content": None, "is_error": None})}),
        (CHAT, {"messages": user({"type": "text", "text": None})}),
        (MESSAGES, {"messages": user({"type": "text", "text": None})}),
        (RESPONSES, {"input": user({"type": "input_text", "text": None})}),
        (MESSAGES, {"metadata": {"user_id": None}, "output_config": {"format": None}}),
        (RESPONSES, {"input": [{"role": "user", "content": None}]}),
        (RESPONSES, {"input": [{**CALL, "arguments": None, "id": None},
                               {"type": "function_call_output", "call_id": "c", "output": None}]}),
        (RESPONSES, {"text": {"format": None, "verbosity": None}, "reasoning": {"effort": None}}),
        (RESPONSES, {"tools": [{**ADD, "parameters": None, "strict": None}]}),
    ],
)  # fmt: skip
def test_nulls_are_accepted_where_absence_is(kind: type[Any], fields: dict[str, Any]) -> None:
    decoded = decode(json.dumps({**BODIES[kind], **fields}).encode(), kind)
    if kind is RESPONSES:
        conversation_request(Request(scope_of()), decoded.value, None, Defaults())
    elif kind is MESSAGES:
        decoded.value.conversation()
    else:
        decoded.value.answer()
        checked(decoded.value.messages)


def test_nulls_are_dropped_from_long_conversations_too() -> None:
    calls = [{"function": {"name": "f", "arguments": None}, "type": None}]
    told = [{"role": "assistant", "content": "word " * 100, "tool_calls": calls}] * 1000
    body = decode(json.dumps({"model": "m", "messages": told, "n": 1.0}).encode(), CHAT).value
    [call] = body.messages[-1].tool_calls or []
    assert call.function.arguments == ""


@pytest.mark.parametrize(
    ("kind", "fields", "param"),
    [
        (CHAT, {"messages": None}, "messages"),
        (CHAT, {"messages": [{"role": None, "content": "a"}]}, "messages[0].role"),
        (COMPLETIONS, {"prompt": ["a", None]}, "prompt[1]"),
        (COMPLETIONS, {"prompt": [[1, None, 2]]}, "prompt[0][1]"),
        (MESSAGES, {"messages": [{"role": "user", "content": [{"type": None}]}]},
         "messages[0].content[0].type"),
    ],
)  # fmt: skip
def test_required_fields_must_not_be_null(
    kind: type[Any], fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(json.dumps({**BODIES[kind], **fields}).encode(), kind)
    assert caught.value.param == param


# Choices


@pytest.mark.parametrize("kind", [*KINDS, *PARTS], ids=lambda kind: kind.__name__)
def test_a_wrong_choice_lists_the_right_ones(kind: type[msgspec.Struct]) -> None:
    for path, info, wrap in places(inspect.type_info(kind)):
        if isinstance(info, inspect.LiteralType):
            with pytest.raises(InvalidRequest) as caught:
                decode(wrap(b'"of_next_year"'), kind)
            assert caught.value.param == path
            assert f"none of {', '.join(map(str, info.values))}" in caught.value.message


def test_a_similar_choice_is_suggested() -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "User", "content": "a"}]}).encode()
    with pytest.raises(InvalidRequest) as caught:
        decode(body, CHAT)
    assert re.search(
        r"`messages\[0\].role`: 'User' is none of assistant, developer, system, tool, user; did "
        r"you mean user\?$",
        caught.value.message,
    )
