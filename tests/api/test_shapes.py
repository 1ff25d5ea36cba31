"""What decoders pass over: names nobody knows, at any depth, and nulls of what may be left out. And
what they do not tell: the values that could be chosen."""

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from asgi import scope_of
from large_bodies import sample
from msgspec import inspect
from starlette.requests import Request

from localinfra.api import cohere, rerank, tokens
from localinfra.api.anthropic import input as messages_input
from localinfra.api.anthropic import messages
from localinfra.api.deepinfra import encoders as native_encoders
from localinfra.api.deepinfra import images as native_images
from localinfra.api.deepinfra import text as native_text
from localinfra.api.generation import tools
from localinfra.api.http.body import decode, decode_within
from localinfra.api.http.liberal import NUMBERED
from localinfra.api.openai import chat, completions, embeddings, image_edits, images
from localinfra.api.openai.responses import input as responses_input
from localinfra.api.openai.responses import request as responses_request
from localinfra.api.openai.responses import tools as responses_tools
from localinfra.api.openai.responses.foreign import FOREIGN
from localinfra.api.openai.responses.handlers import what_is_asked
from localinfra.chat.messages import checked
from localinfra.errors import InvalidRequest

CHAT = chat.ChatCompletionRequest
RESPONSES = responses_request.ResponsesRequest
MESSAGES = messages.MessageRequest
COMPLETIONS = completions.CompletionRequest

HELLO = [{"role": "user", "content": "Hello"}]
BODIES: dict[type[Any], dict[str, Any]] = {
    CHAT: {"model": "m", "messages": HELLO},
    RESPONSES: {"model": "m", "input": "Hello"},
    MESSAGES: {"model": "m", "messages": HELLO},
    COMPLETIONS: {"model": "m", "prompt": "Hello"},
}
TEXT = {"type": "text", "text": "Hello"}
EPHEMERAL = {"type": "ephemeral"}


def user(*parts: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*parts], **more}]


@pytest.mark.parametrize(
    ("kind", "fields", "named"),
    [
        (CHAT, {"stream_options": {"include_usage": True, "x": 1}}, ["stream_options.x"]),
        (CHAT, {"stream_options": {"include_obfuscation": False}},
         ["stream_options.include_obfuscation"]),
        (CHAT, {"response_format": {
            "type": "json_schema", "json_schema": {"foo": 0, "schema": {}}}},
         ["response_format.json_schema.foo"]),
        (CHAT, {"response_format": {"type": "text", "foo": "x"}}, ["response_format.foo"]),
        (CHAT, {"messages": user(TEXT, {**TEXT, "cache_control": EPHEMERAL}, mood="glad")},
         ["messages[0].mood", "messages[0].content[1].cache_control"]),
        (CHAT, {"messages": [*HELLO, {"role": "assistant", "content": "a", "tool_calls": [
            {"index": 1, "function": {"name": "f", "arguments": "{}", "foo": 1}}]}]},
         ["messages[1].tool_calls[0].index", "messages[1].tool_calls[0].function.foo"]),
        (CHAT, {"tool_choice": {"type": "function", "function": {"name": "f", "foo": 1}}},
         ["tool_choice.function.foo"]),
        (CHAT, {"thinking": {"type": "adaptive"}, "x": {"y": 1}}, ["thinking", "x"]),
        (COMPLETIONS, {"stream_options": {"x": [1]}}, ["stream_options.x"]),
        (MESSAGES, {"metadata": {"user_id": "u", "team": "t"}}, ["metadata.team"]),
        (MESSAGES, {"messages": user({**TEXT, "citations": [1]})},
         ["messages[0].content[0].citations"]),
        (MESSAGES, {"output_config": {"effort": "low", "foo": 1}, "thinking": {
            "type": "adaptive", "foo": 1}}, ["thinking.foo", "output_config.foo"]),
        # Each has an effect, or none that anyone could miss, or the client has not used it.
        (CHAT, {"chat_template_kwargs": {"a": {"b": 1}}, "logit_bias": {"5": 1}}, []),
        (CHAT, {"messages": user({**TEXT, "image_url": None, "annotations": []}, audio=None)}, []),
        (CHAT, {"response_format": {"type": "json_object", "schema": {"x-foo": {"y": 1}}}}, []),
        (MESSAGES, {"messages": user({**TEXT, "cache_control": EPHEMERAL})}, []),
        (MESSAGES, {"system": [{**TEXT, "cache_control": EPHEMERAL}],
                    "cache_control": EPHEMERAL}, []),
    ],
)  # fmt: skip
def test_names_nobody_knows_are_told_by_their_paths(
    kind: type[Any], fields: dict[str, Any], named: list[str]
) -> None:
    decoded = decode(json.dumps({**BODIES[kind], **fields}).encode(), kind)
    assert decoded.headers.get("x-localinfra-ignored", "") == ", ".join(named)


def responses_headers(**fields: Any) -> str:
    decoded = decode(json.dumps({**BODIES[RESPONSES], **fields}).encode(), RESPONSES)
    asked = what_is_asked(Request(scope_of()), decoded.value, None)
    headers = decoded.ignoring(asked.left_out, asked.unknown).headers
    return headers.get("x-localinfra-ignored", "")


ADD = {"type": "function", "name": "add"}
CALL = {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"}
SAID = {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed", "content": [
    {"type": "output_text", "text": "Hi", "annotations": [{"type": "url_citation"}],
     "logprobs": [{"token": "Hi"}]},
]}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"text": {"verbosity": "low", "foo": 1}}, "text.verbosity, text.foo"),
        ({"text": {"verbosity": "medium", "format": {"type": "text", "foo": 1}}},
         "text.format.foo"),
        ({"reasoning": {"summary": "auto", "context": "all"}},
         "reasoning.summary, reasoning.context"),
        ({"tools": [ADD, {**ADD, "name": "b", "defer_loading": True}]}, "tools[1].defer_loading"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [{**ADD, "foo": 1}]}]},
         "tools[0].tools[0].foo"),
        ({"tools": [{"type": "web_search", "foo": 1}, ADD]}, "tools[0]"),
        ({"input": [{"role": "user", "content": "Hi", "phase": "x"}]}, "input[0].phase"),
        ({"input": [*HELLO, SAID, *HELLO]}, ""),
        ({"input": [*HELLO, {**CALL, "status": None, "foo": 1},
                    {"type": "function_call_output", "call_id": "c", "output": "1", "bar": 1}]},
         "input[1].foo, input[2].bar"),
    ],
)  # fmt: skip
def test_in_what_the_responses_api_reads_by_itself_too(fields: dict[str, Any], named: str) -> None:
    assert responses_headers(**fields) == named


def test_what_is_left_out_is_not_named_again_for_what_is_in_it_nor_crowded_out() -> None:
    strange = [{"role": "user", "content": "Hello", "foo": at} for at in range(500)]
    decoded = decode(json.dumps({**BODIES[CHAT], "messages": strange, "x": 1}).encode(), CHAT)
    assert len(decoded.unknown) < 100
    header = decoded.ignoring(["tools[3]", "messages[0]"]).headers["x-localinfra-ignored"]
    assert header.startswith("x, tools[3], messages[0], messages[1].foo, messages[2].foo")
    assert header.endswith(", ...") and len(header) < 2000


def test_however_large_a_body_is_looking_for_names_takes_a_fraction_of_it() -> None:
    """The objects looked at are counted: 100,000 parts take no longer than 10,000."""
    parts = b",".join([b'{"type":"text","text":"a","foo":1}'] * 25_000)
    body = b'{"model":"m","messages":[{"role":"user","content":[%b]}]}'

    def read_s(text: bytes) -> float:
        started_s = time.process_time()
        with pytest.raises(InvalidRequest):  # more parts than are taken
            decode(body % text, CHAT)
        return time.process_time() - started_s

    assert read_s(parts) < 1
    nested = b'{"model":"m","messages":' + b'[{"role":"user","content":' * 3000
    with pytest.raises(InvalidRequest):
        decode(nested, CHAT)


def test_numbers_that_no_value_stands_for_are_no_failure() -> None:
    huge = b"9" * 5000
    body = b'{"model":"m","messages":[{"role":"user","content":"a","foo":%b}]}' % huge
    assert decode(body, CHAT).value.messages[0].content == "a"
    item = msgspec.Raw(b'{"role":"user","content":"a","foo":%b}' % huge)
    assert decode_within("input[0]", item, responses_input.SentMessage, []).content == "a"


# Nulls

KINDS: list[type[msgspec.Struct]] = [
    CHAT,
    RESPONSES,
    MESSAGES,
    COMPLETIONS,
    messages_input.PromptFields,
    completions.EngineCompletionRequest,
    embeddings.EmbeddingsRequest,
    embeddings.EngineEmbeddingsRequest,
    cohere.EmbedRequest,
    rerank.RerankRequest,
    images.ImageFields,
    image_edits.EditFields,
    tokens.TokenizeRequest,
    tokens.DetokenizeRequest,
    native_text.TextBody,
    native_encoders.EmbeddingBody,
    native_encoders.RerankBody,
    native_images.ImageBody,
    native_images.CogInput,
]
PARTS: list[type[msgspec.Struct]] = [  # of bodies, which are read by themselves
    responses_input.Sent, responses_input.SentMessage, responses_input.SentReasoning,
    responses_input.SentCall, responses_input.SentOutput, responses_input.ItemReference,
    responses_tools.SentNamespace, tools.ToolType, tools.SentFunction,
    *FOREIGN.values(),
]  # fmt: skip

ANYTHING = (inspect.AnyType, inspect.RawType)

Wrap = Callable[[bytes], bytes]


def places(
    info: inspect.Type, path: str = "", wrap: Wrap = lambda raw: raw, within: tuple[type, ...] = ()
) -> Iterator[tuple[str, inspect.Type, Wrap]]:
    """Each place of a body, at any depth: its path, what may stand there, and how JSON of it
    becomes a body, which has little else."""
    match info:
        case inspect.Metadata():
            yield from places(info.type, path, wrap, within)
        case inspect.UnionType():
            for member in info.types:
                yield from places(member, path, wrap, within)
        case inspect.ListType():
            yield from places(info.item_type, f"{path}[0]", lambda raw: wrap(b"[%b]" % raw), within)
        case inspect.StructType() if info.cls not in within:
            yield path, info, wrap
            for field in info.fields:

                def place(raw: bytes, field: inspect.Field = field) -> bytes:
                    return wrap(json_of(info, field, raw))

                here = f"{path}.{field.encode_name}".lstrip(".")
                yield from places(field.type, here, place, (*within, info.cls))
        case _:
            yield path, info, wrap


def json_of(
    info: inspect.StructType, field: inspect.Field | None = None, raw: bytes = b""
) -> bytes:
    """An object of what it must have, with this for the field."""
    values = {one.encode_name: sample(one.type) for one in info.fields if one.required}
    if field is not None:
        values[field.encode_name] = raw
    return b"{%b}" % b",".join(
        b'"%b":%b' % (name.encode(), value) for name, value in values.items()
    )


def has_default(field: inspect.Field) -> bool:
    """Else it is unset."""
    return (field.default, field.default_factory) != (msgspec.NODEFAULT, msgspec.NODEFAULT)


@pytest.mark.parametrize("kind", [*KINDS, *PARTS], ids=lambda kind: kind.__name__)
def test_a_null_is_a_field_not_given_wherever_it_may_be_left_out(
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
            # Where it has none, nothing has been said, which is more than a field forgotten.
            if has_default(field):
                assert read == decode(wrap(json_of(info)), kind).value, (path, field.encode_name)
            if kind in PARTS and kind is not tools.ToolType:
                assert decode_within("x", msgspec.Raw(with_null), kind, []) == read
            num_tried += 1
    assert num_tried or kind is tokens.DetokenizeRequest


@pytest.mark.parametrize("kind", [*KINDS, *PARTS], ids=lambda kind: kind.__name__)
def test_a_null_in_a_list_or_a_map_is_nothing_there(kind: type[msgspec.Struct]) -> None:
    """But for lists that are answered by their places."""
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
    """Lists and maps of a type that take no null, without one and with."""
    match info:
        case inspect.Metadata():
            yield from with_nulls(info.type)
        case inspect.UnionType():
            for member in info.types:
                yield from with_nulls(member)
        case inspect.ListType() if not isinstance(info.item_type, ANYTHING):
            item = sample(info.item_type)
            yield b"[%b]" % item, b"[null,%b,null]" % item
        case inspect.DictType() if not isinstance(info.value_type, ANYTHING):
            item = sample(info.value_type)
            yield b'{"5":%b}' % item, b'{"4":null,"5":%b}' % item


def test_a_null_among_tools_and_items_is_nothing_there() -> None:
    for kind in (CHAT, RESPONSES):
        sent: list[Any] = [
            None,
            ADD if kind is RESPONSES else {"type": "function", "function": ADD},
        ]
        body: Any = decode(json.dumps({**BODIES[kind], "tools": sent}).encode(), kind).value
        [tool] = body.answer().use.tools
        assert tool.name == "add" and tool.param.startswith("tools[1].")
    fields = {"model": "m", "input": [None, *HELLO, None], "tools": [None]}
    asked = what_is_asked(
        Request(scope_of()), decode(json.dumps(fields).encode(), RESPONSES).value, None
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
def test_nulls_pass_where_nothing_does(kind: type[Any], fields: dict[str, Any]) -> None:
    decoded = decode(json.dumps({**BODIES[kind], **fields}).encode(), kind)
    if kind is RESPONSES:
        what_is_asked(Request(scope_of()), decoded.value, None)
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
def test_what_must_be_there_must_not_be_null(
    kind: type[Any], fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(json.dumps({**BODIES[kind], **fields}).encode(), kind)
    assert caught.value.param == param


# Choices


@pytest.mark.parametrize("kind", [*KINDS, *PARTS], ids=lambda kind: kind.__name__)
def test_a_wrong_choice_names_the_right_ones(kind: type[msgspec.Struct]) -> None:
    for path, info, wrap in places(inspect.type_info(kind)):
        if isinstance(info, inspect.LiteralType):
            with pytest.raises(InvalidRequest) as caught:
                decode(wrap(b'"of_next_year"'), kind)
            assert caught.value.param == path
            assert f"none of {', '.join(map(str, info.values))}" in caught.value.message


def test_a_near_choice_is_suggested() -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "User", "content": "a"}]}).encode()
    with pytest.raises(InvalidRequest) as caught:
        decode(body, CHAT)
    assert re.search(
        r"`messages\[0\].role`: 'User' is none of assistant, developer, system, tool, user; did "
        r"you mean user\?$",
        caught.value.message,
    )
