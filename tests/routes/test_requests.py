"""What clients send by default or by habit, on every text route."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from answers import ignored, parsed
from echo import EchoServer

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGES, NATIVE = "/v1/messages", "/v1/inference/echo"
HELLO = [{"role": "user", "content": "Hello"}]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": "echo", "messages": HELLO, "max_tokens": 2},
    COMPLETIONS: {"model": "echo", "prompt": "Hello", "max_tokens": 2},
    RESPONSES: {"model": "echo", "input": "Hello", "max_output_tokens": 2},
    MESSAGES: {"model": "echo", "messages": HELLO, "max_tokens": 2},
    NATIVE: {"input": "Hello", "max_new_tokens": 2},
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["END", "Paris"]}}},
    },
}
CALLED = {
    "role": "assistant", "content": [],
    "tool_calls": [{"id": "call_1", "type": "function",
                    "function": {"name": "get_weather", "arguments": "{}"}}],
}  # fmt: skip

pytestmark = pytest.mark.timeout(600)


def post(server: EchoServer, path: str, **fields: Any) -> httpx2.Response:
    return server.post(path, {**BODIES[path], **fields})


def events(server: EchoServer, path: str, **fields: Any) -> Iterator[Any]:
    return parsed(post(server, path, stream=True, **fields).content)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"max_tokens": 2.0, "n": 1.0, "seed": -1.0, "top_k": -1}),
        (CHAT, {"max_tokens": -1, "max_completion_tokens": 2}),
        (CHAT, {"top_logprobs": 0, "logprobs": False}),
        (CHAT, {"messages": [*HELLO, CALLED, {"role": "tool", "tool_call_id": "call_1",
                                              "content": "21 degrees"}]}),
        (CHAT, {"tools": [], "tool_choice": "none", "functions": [], "stop": [], "user": "",
                "response_format": {"type": "text"}, "logit_bias": {}, "stream_options": None,
                "reasoning_effort": "", "modalities": [], "tool_choices": None}),
        (CHAT, {"response_format": {}, "tool_choice": "", "function_call": {}, "stop": ""}),
        (COMPLETIONS, {"suffix": "", "max_tokens": 2e0, "logprobs": 1.0, "stop": ""}),
        (COMPLETIONS, {"max_tokens": 2, "seed": -1, "top_k": -1.0, "best_of": 1.0}),
        (RESPONSES, {"max_output_tokens": 2.0, "previous_response_id": "", "instructions": "",
                     "metadata": [], "tool_choice": {}, "text": {}, "reasoning": {}}),
        (MESSAGES, {"max_tokens": 2.0, "top_k": -1, "thinking": {}, "tool_choice": {}}),
        (NATIVE, {"max_new_tokens": 2.0, "num_responses": 1.0, "top_k": -1, "seed": -1}),
    ],
)  # fmt: skip
def test_empty_values_count_as_absent_and_whole_floats_as_integers(
    server: EchoServer, path: str, fields: dict[str, Any]
) -> None:
    reply = post(server, path, **fields)
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
@pytest.mark.parametrize("charset", ["", "; charset=utf8", "; charset=UTF-8", "; Charset=utf_8;"])
def test_a_byte_order_mark_and_any_spelling_of_utf_8_are_fine(
    server: EchoServer, path: str, charset: str
) -> None:
    body = b"\xef\xbb\xbf" + json.dumps(BODIES[path]).encode()
    headers = {"content-type": f"application/json{charset}"}
    reply = server.client.post(server.url + path, content=body, headers=headers, timeout=600)
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, NATIVE])
def test_repeat_penalty_is_repetition_penalty(server: EchoServer, path: str) -> None:
    limit = {NATIVE: {"max_new_tokens": 24}}.get(path, {"max_tokens": 24})
    fields = {"temperature": 0, "seed": 1, **limit}
    own, other, neither = (
        post(server, path, **fields, **penalty).json()
        for penalty in ({"repetition_penalty": 5}, {"repeat_penalty": 5}, {})
    )

    def text(reply: Any) -> Any:
        choice = (reply.get("choices") or reply["results"])[0]
        return choice.get("text") or choice.get("generated_text") or choice["message"]["content"]

    assert text(own) == text(other) != text(neither)
    both = post(server, path, repetition_penalty=1.5, repeat_penalty=1.5)
    assert both.status_code == 200


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_usage_is_sent_once_per_stream(server: EchoServer, path: str) -> None:
    plain = list(events(server, path))
    assert [event["usage"]["completion_tokens"] for event in plain if event.get("usage")] == [2]
    assert plain[-1]["choices"][0]["finish_reason"] and plain[-1]["usage"]
    asked = list(events(server, path, stream_options={"include_usage": True}))
    assert [event["usage"]["completion_tokens"] for event in asked if event.get("usage")] == [2]
    assert asked[-1]["choices"] == [] and asked[-1]["usage"]["completion_tokens"] == 2
    assert asked[-2]["choices"][0]["finish_reason"]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_usage_is_sent_once_per_stream_of_many_choices(server: EchoServer, path: str) -> None:
    """The total, with the choice that ends last: clients add up what they get."""
    fields: dict[str, Any] = {"n": 3, "temperature": 1, "max_tokens": 5}
    if path == COMPLETIONS:
        fields |= {"prompt": ["One,", "Monday and"], "n": 2}
    num_choices = 3 if path == CHAT else 4
    for asked in (None, {"include_usage": True}):
        told = list(events(server, path, stream_options=asked, **fields))
        [at] = [at for at, event in enumerate(told) if event.get("usage")]
        assert at == len(told) - 1
        assert num_choices <= told[at]["usage"]["completion_tokens"] <= 5 * num_choices
        ends = [
            event for event in told if event["choices"] and event["choices"][0]["finish_reason"]
        ]
        assert len(ends) == num_choices


def test_a_call_that_is_cut_off_shows_none_of_its_markers(server: EchoServer) -> None:
    """Wherever it is cut off, streamed or not: this model's markers are several tokens long."""
    for limit in range(1, 14):
        fields = {"tools": [WEATHER], "tool_choice": "required", "temperature": 0,
                  "max_tokens": limit}  # fmt: skip
        choice = post(server, CHAT, **fields).json()["choices"][0]
        deltas = [event["choices"][0] for event in events(server, CHAT, **fields)]
        said = "".join(delta["delta"].get("content") or "" for delta in deltas)
        assert not choice["message"]["content"] and not said, (limit, choice, said)
        assert choice["finish_reason"] == deltas[-1]["finish_reason"] == "length"


def test_unknown_names_in_nested_objects_are_reported(server: EchoServer) -> None:
    parts = [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]
    said = [{"role": "user", "content": parts}]
    function: Any = WEATHER["function"]
    tool = {**WEATHER, "function": {**function, "foo": 1}}
    reply = post(server, CHAT, messages=said, tools=[tool], stream_options={"x": 1}, y=1)
    assert ignored(reply) == [
        "y", "stream_options.x", "messages[0].content[0].cache_control", "tools[0].function.foo",
    ]  # fmt: skip
    text = {"verbosity": "low", "foo": 1}
    assert ignored(post(server, RESPONSES, text=text)) == ["text.verbosity", "text.foo"]
    thinking = {"type": "adaptive", "foo": 1}
    assert ignored(post(server, MESSAGES, thinking=thinking)) == ["thinking"]
    assert ignored(post(server, MESSAGES, thinking={"type": "disabled"})) == [""]


def test_the_error_for_a_huge_prompt_has_a_lower_bound_of_its_tokens(server: EchoServer) -> None:
    said = [{"role": "user", "content": "word " * 200_000}]
    for path, fields in ((CHAT, {"messages": said}), (COMPLETIONS, {"prompt": "word " * 200_000})):
        error = post(server, path, **fields).json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert "maximum context length is 2048 tokens" in error["message"]
        assert re.search(r"your request has at least \d+ prompt tokens", error["message"])
    exact = post(server, COMPLETIONS, prompt=[5] * 3000).json()["error"]["message"]
    assert "your request has 3000 prompt tokens" in exact


def test_template_variables_can_be_set_and_unknown_ones_are_reported(server: EchoServer) -> None:
    kwargs = {"enable_thinking": False, "of_next_year": [1], "documents": [{"title": "a"}]}
    reply = post(server, CHAT, model="thinker", chat_template_kwargs=kwargs)
    assert ignored(reply) == [
        "chat_template_kwargs.of_next_year", "chat_template_kwargs.documents",
    ]  # fmt: skip
    assert "reasoning_content" not in reply.json()["choices"][0]["message"]
    effort = post(server, CHAT, reasoning_effort="low")
    assert ignored(effort) == ["reasoning_effort"]
    assert ignored(post(server, RESPONSES, reasoning={"effort": "low"})) == ["reasoning.effort"]
    for name in ("messages", "tools", "add_generation_prompt", "bos_token", "raise_exception"):
        refused = post(server, CHAT, chat_template_kwargs={name: 1})
        assert refused.status_code == 400 and name in refused.json()["error"]["message"]


def test_tools_that_can_not_run_here_are_reported(server: EchoServer) -> None:
    custom = {"type": "custom", "custom": {"name": "patch"}}
    tools = [WEATHER, {"type": "web_search"}, custom]
    assert ignored(post(server, CHAT, tools=tools)) == ["tools[1]", "tools[2]"]
    hosted = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
    own = {"name": "now", "input_schema": {"type": "object"}}
    assert ignored(post(server, MESSAGES, tools=[own, hosted])) == ["tools[1]"]
    assert ignored(server.post("/v1/messages/count_tokens", {
        "model": "echo", "messages": HELLO, "tools": [own, hosted],
    })) == ["tools[1]"]  # fmt: skip


def test_stop_strings_apply_to_the_content_only(server: EchoServer) -> None:
    """The thinker never ends its reasoning, so all its text is reasoning."""
    fields = {"model": "thinker", "temperature": 0, "max_tokens": 24}
    whole = post(server, CHAT, **fields).json()["choices"][0]
    thought = whole["message"]["reasoning_content"]
    stopped = post(server, CHAT, **fields, stop=thought[4:8]).json()["choices"][0]
    assert stopped["message"] == whole["message"]
    assert stopped["finish_reason"] == whole["finish_reason"]
    said = post(server, MESSAGES, **fields, stop_sequences=[thought[4:8]]).json()
    assert thought[4:8] in said["content"][0]["thinking"] and said["stop_sequence"] is None
    limit = {"max_output_tokens": 24, "stop": thought[4:8]}
    response = post(server, RESPONSES, model="thinker", temperature=0, **limit).json()
    assert thought[4:8] in response["output"][0]["content"][0]["text"]
    plain = {**fields, "chat_template_kwargs": {"enable_thinking": False}}
    spoken = post(server, CHAT, **plain).json()["choices"][0]["message"]["content"]
    cut = post(server, CHAT, **plain, stop=spoken[4:8]).json()["choices"][0]
    assert cut["message"]["content"] == spoken[: spoken.index(spoken[4:8])]
    assert cut["finish_reason"] == "stop"


def test_a_stop_string_does_not_cut_a_call(server: EchoServer) -> None:
    fields = {"tools": [WEATHER], "max_tokens": 200, "temperature": 0}
    reply = post(server, CHAT, messages=HELLO, tool_choice="required", stop=["END", '"', "}"],
                 **fields).json()["choices"][0]  # fmt: skip
    assert reply["finish_reason"] == "tool_calls" and reply["message"]["tool_calls"]


def test_without_a_limit_an_answer_may_fill_the_context(server: EchoServer) -> None:
    """The thinker has no default_max_tokens, so its context of 1024 tokens is the limit."""
    asked = [{"role": "user", "content": "word " * 100}]
    fields = {"model": "thinker", "messages": asked}
    for limit in (None, -1):
        reply = post(server, CHAT, **fields, max_tokens=limit).json()
        assert reply["choices"][0]["finish_reason"] == "length"
        assert reply["usage"]["total_tokens"] == 1024
        said = post(server, MESSAGES, model="thinker", messages=asked, max_tokens=limit).json()
        assert said["stop_reason"] in ("model_context_window_exceeded", "end_turn")
