"""Unknown names at any depth, which decoders skip."""

import json
import time
from typing import Any

import pytest
from asgi import scope_of
from request_structs import (
    ADD,
    BODIES,
    CALL,
    CHAT,
    COMPLETIONS,
    HELLO,
    MESSAGES,
    RESPONSES,
    user,
)
from starlette.requests import Request

from localinfra.api.generation.params import Defaults
from localinfra.api.http import refusals
from localinfra.api.http.body import decode
from localinfra.api.openai.responses.conversation import conversation_request
from localinfra.errors import InvalidRequest

TEXT = {"type": "text", "text": "Hello"}
EPHEMERAL = {"type": "ephemeral"}


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
        (CHAT, {"thinking": {"type": "adaptive", "foo": 1}, "x": {"y": 1}}, ["x", "thinking.foo"]),
        (COMPLETIONS, {"stream_options": {"x": [1]}}, ["stream_options.x"]),
        (MESSAGES, {"metadata": {"user_id": "u", "team": "t"}}, ["metadata.team"]),
        (MESSAGES, {"messages": user({**TEXT, "citations": [1]})},
         ["messages[0].content[0].citations"]),
        (MESSAGES, {"output_config": {"effort": "low", "foo": 1}, "thinking": {
            "type": "adaptive", "foo": 1}}, ["thinking.foo", "output_config.foo"]),
        # Each has an effect, or can have none, or is empty.
        (CHAT, {"chat_template_kwargs": {"a": {"b": 1}}, "logit_bias": {"5": 1}}, []),
        (CHAT, {"messages": user({**TEXT, "image_url": None, "annotations": []}, audio=None)}, []),
        (CHAT, {"response_format": {"type": "json_object", "schema": {"x-foo": {"y": 1}}}}, []),
        (MESSAGES, {"messages": user({**TEXT, "cache_control": EPHEMERAL})}, []),
        (MESSAGES, {"system": [{**TEXT, "cache_control": EPHEMERAL}],
                    "cache_control": EPHEMERAL}, []),
    ],
)  # fmt: skip
def test_unknown_names_are_reported_with_their_paths(
    kind: type[Any], fields: dict[str, Any], named: list[str]
) -> None:
    decoded = decode(json.dumps({**BODIES[kind], **fields}).encode(), kind)
    assert decoded.headers.get("x-localinfra-ignored", "") == ", ".join(named)


def responses_headers(**fields: Any) -> str:
    decoded = decode(json.dumps({**BODIES[RESPONSES], **fields}).encode(), RESPONSES)
    asked = conversation_request(Request(scope_of()), decoded.value, None, Defaults())
    headers = decoded.ignoring(asked.left_out, asked.unknown).headers
    return headers.get("x-localinfra-ignored", "")


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
def test_unknown_names_in_raw_items_are_reported_too(fields: dict[str, Any], named: str) -> None:
    assert responses_headers(**fields) == named


def test_names_within_ignored_fields_are_not_reported_and_crowd_out_none() -> None:
    strange = [{"role": "user", "content": "Hello", "foo": at} for at in range(500)]
    decoded = decode(json.dumps({**BODIES[CHAT], "messages": strange, "x": 1}).encode(), CHAT)
    assert len(decoded.unknown) < 100
    header = decoded.ignoring(["tools[3]", "messages[0]"]).headers["x-localinfra-ignored"]
    assert header.startswith("x, tools[3], messages[0], messages[1].foo, messages[2].foo")
    assert header.endswith(", ...") and len(header) < 2000


def test_the_search_for_unknown_names_is_limited_for_any_body() -> None:
    """The objects looked at are counted: 100,000 parts take no longer than 10,000."""
    parts = b",".join([b'{"type":"text","text":"a","foo":1}'] * 25_000)
    body = b'{"model":"m","messages":[{"role":"user","content":[%b]}]}'

    def read_s(text: bytes) -> float:
        started_s = time.thread_time()
        with pytest.raises(InvalidRequest):  # more parts than are allowed
            decode(body % text, CHAT)
        return time.thread_time() - started_s

    # 30 ms; garbage of the tests before may be collected meanwhile.
    assert min(read_s(parts) for _ in range(3)) < 1
    nested = b'{"model":"m","messages":' + b'[{"role":"user","content":' * 3000
    with pytest.raises(InvalidRequest):
        decode(nested, CHAT)


def test_numbers_beyond_pythons_range_do_not_crash() -> None:
    huge = b"9" * 5000
    body = b'{"model":"m","messages":[{"role":"user","content":"a","foo":%b}]}' % huge
    assert decode(body, CHAT).value.messages[0].content == "a"
    with pytest.raises(InvalidRequest, match="out of range") as caught:
        decode(b'{"model":"m","input":[{"role":"user","content":"a","foo":%b}]}' % huge, RESPONSES)
    assert caught.value.param == "input[0][...]"


LONG = "\n" * 300_000


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": LONG, "content": "a"}]}, "messages[0].role"),
        ({"messages": HELLO, "reasoning_effort": LONG}, "reasoning_effort"),
        ({"messages": HELLO, "modalities": ["text", LONG]}, "modalities[1]"),
        ({"messages": HELLO, "response_format": {"type": LONG}}, "response_format.type"),
    ],
)
def test_a_long_wrong_choice_is_cut_before_an_error_quotes_it(
    fields: dict[str, Any], param: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quoted: list[int] = []
    monkeypatch.setattr(refusals, "invalid_value", noting(quoted, refusals.invalid_value))
    with pytest.raises(InvalidRequest) as caught:
        decode(json.dumps({"model": "m", **fields}).encode(), CHAT)
    assert caught.value.param == param and max(quoted) < 5000


def noting(sizes: list[int], then: Any) -> Any:
    def noted(problem: str, *more: Any) -> Any:
        sizes.append(len(problem))
        return then(problem, *more)

    return noted


def test_long_arguments_that_are_an_object_become_its_json() -> None:
    arguments = {"a": [LONG, {"b": "é" * 200_000}], "c": 1}
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [*HELLO, {"role": "assistant", "tool_calls": [call]}]
    body = decode(json.dumps({"model": "m", "messages": messages}).encode(), CHAT).value
    [made] = body.messages[1].tool_calls or []
    text = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
    assert made.function.arguments == text
