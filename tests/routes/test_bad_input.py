"""Every wrong request gets a clear error, and the server goes on."""

import json
from typing import Any

import pytest
from answers import assert_error
from echo import ECHO, EchoServer

HELLO = [{"role": "user", "content": "Hello"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

# body changes → status, param, code
CHAT_ERRORS: list[tuple[dict[str, Any], int, str | None, str]] = [
    ({"model": "gpt-4o"}, 404, "model", "model_not_found"),
    ({"model": "absent"}, 503, "model", "model_unavailable"),
    ({"model": "damaged"}, 503, "model", "model_unavailable"),
    ({"model": "vectors"}, 400, "model", "invalid_value"),
    ({"model": 3}, 400, "model", "invalid_value"),
    ({"messages": []}, 400, "messages", "invalid_value"),
    ({"messages": "Hello"}, 400, "messages", "invalid_value"),
    ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "user"}]}, 400, "messages[0].content", "invalid_value"),
    ({"messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content", "invalid_value"),
    ({"temperature": 2.1}, 400, "temperature", "invalid_value"),
    ({"temperature": -0.1}, 400, "temperature", "invalid_value"),
    ({"temperature": "hot"}, 400, "temperature", "invalid_value"),
    ({"top_p": 0}, 400, "top_p", "invalid_value"),
    ({"top_p": 1.1}, 400, "top_p", "invalid_value"),
    ({"min_p": 1.1}, 400, "min_p", "invalid_value"),
    ({"top_k": 1000}, 400, "top_k", "invalid_value"),
    ({"top_k": -2}, 400, "top_k", "invalid_value"),
    ({"presence_penalty": 2.5}, 400, "presence_penalty", "invalid_value"),
    ({"frequency_penalty": -2.5}, 400, "frequency_penalty", "invalid_value"),
    ({"repetition_penalty": 0}, 400, "repetition_penalty", "invalid_value"),
    ({"repetition_penalty": 5.1}, 400, "repetition_penalty", "invalid_value"),
    ({"logit_bias": {"5": 101}}, 400, "logit_bias[...]", "invalid_value"),
    ({"logit_bias": {"x": 1}}, 400, "logit_bias", "invalid_value"),
    ({"logit_bias": {"262": 1}}, 400, "logit_bias", "invalid_value"),
    ({"logit_bias": {"-1": 1}}, 400, "logit_bias", "invalid_value"),
    ({"stop": ["a"] * 65}, 400, "stop", "invalid_value"),
    ({"stop": "a" * 257}, 400, "stop", "invalid_value"),
    ({"stop": [1]}, 400, "stop[0]", "invalid_value"),
    ({"n": 0}, 400, "n", "invalid_value"),
    ({"n": 129}, 400, "n", "invalid_value"),
    ({"max_tokens": -2}, 400, "max_tokens", "invalid_value"),
    ({"max_tokens": 1_000_001}, 400, "max_tokens", "invalid_value"),
    ({"max_completion_tokens": 1.5}, 400, "max_completion_tokens", "invalid_value"),
    ({"seed": -2}, 400, "seed", "invalid_value"),
    (
        {"repetition_penalty": 1.0, "repeat_penalty": 1.1},
        400, "repeat_penalty", "invalid_value",
    ),
    ({"repeat_penalty": 5.1}, 400, "repeat_penalty", "invalid_value"),
    (
        {"tools": [{"type": "web_search"}], "tool_choice": "required"},
        400, "tool_choice", "unsupported_parameter",
    ),
    ({"tools": [{"type": "function", "function": {}}]}, 400, "tools[0].function.name",
     "invalid_value"),
    ({"seed": 2**63}, 400, "seed", "invalid_value"),
    ({"top_logprobs": 3}, 400, "top_logprobs", "invalid_value"),
    ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", "invalid_value"),
    ({"stream": "yes"}, 400, "stream", "invalid_value"),
    ({"response_format": {"type": "yaml"}}, 400, "response_format.type", "unsupported_parameter"),
    ({"response_format": "json"}, 400, "response_format", "invalid_value"),
    ({"tools": [{"type": "function"}]}, 400, "tools[0].function", "invalid_value"),
    ({"tool_choice": "required"}, 400, "tool_choice", "invalid_value"),
    ({"functions": [{"name": "f"}]}, 400, "functions", "unsupported_parameter"),
    ({"chat_template_kwargs": {"messages": 1}}, 400, "chat_template_kwargs", "invalid_value"),
    (
        {"messages": [{"role": "user", "content": "word " * 3000}]},
        400, "messages", "context_length_exceeded",
    ),
    (
        {"messages": [{"role": "user", "content": "a" * 4_000_000}]},
        400, "messages", "context_length_exceeded",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        400, "messages[0].content[0]", "unsupported_parameter",
    ),
]  # fmt: skip

COMPLETION_ERRORS: list[tuple[dict[str, Any], int, str | None, str]] = [
    ({"prompt": ""}, 400, "prompt", "invalid_value"),
    ({"prompt": []}, 400, "prompt", "invalid_value"),
    ({"prompt": [[]]}, 400, "prompt", "invalid_value"),
    ({"prompt": ["a", 1]}, 400, "prompt", "invalid_value"),
    ({"prompt": [262]}, 400, "prompt", "invalid_value"),
    ({"prompt": [-1]}, 400, "prompt", "invalid_value"),
    ({"prompt": ["a"] * 129}, 400, "prompt", "invalid_value"),
    ({"prompt": ["a"] * 100, "n": 100}, 400, "n", "invalid_value"),
    ({"prompt": [5] * 2048}, 400, "prompt", "context_length_exceeded"),
    ({"n": 3, "best_of": 2}, 400, "best_of", "invalid_value"),
    ({"best_of": 2, "stream": True}, 400, "best_of", "invalid_value"),
    ({"logprobs": 21}, 400, "logprobs", "invalid_value"),
    ({"suffix": "x"}, 400, "suffix", "unsupported_parameter"),
    ({"prompt": [1, 2], "suffix": "x"}, 400, "suffix", "invalid_value"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("change", "status", "param", "code"), CHAT_ERRORS)
def test_a_wrong_chat_request_gets_a_clear_error(
    server: EchoServer,
    change: dict[str, Any],
    status: int,
    param: str | None,
    code: str,
    stream: bool,
) -> None:
    """With the right status even for a stream: nothing has been sent yet."""
    body = {"model": "echo", "messages": HELLO, "max_tokens": 1, "stream": stream, **change}
    assert_error(server.post(CHAT, body), status, param, code)


@pytest.mark.parametrize(("change", "status", "param", "code"), COMPLETION_ERRORS)
def test_a_wrong_completions_request_gets_a_clear_error(
    server: EchoServer, change: dict[str, Any], status: int, param: str | None, code: str
) -> None:
    body = {"model": "echo", "prompt": "Hello", "max_tokens": 1, **change}
    assert_error(server.post(COMPLETIONS, body), status, param, code)


def test_the_context_error_has_the_words_and_numbers_clients_parse(server: EchoServer) -> None:
    reply = server.post(COMPLETIONS, {"model": "echo", "prompt": [5] * 2100})
    assert "This model's maximum context length is 2048 tokens" in reply.text
    assert "2100 prompt tokens" in reply.text


def test_an_unknown_model_error_lists_the_models(server: EchoServer) -> None:
    reply = server.post(CHAT, {"model": "ech", "messages": HELLO})
    assert "echo" in reply.json()["error"]["message"]


def test_an_absent_model_says_how_to_get_it(server: EchoServer) -> None:
    reply = server.post(CHAT, {"model": "absent", "messages": HELLO})
    assert "file.gguf" in reply.json()["error"]["message"]
    assert server.client.get(server.url + "/v1/models/absent").json()["state"] == "fetch needed"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b'"x"', b'{"model": NaN}', b'{"model": "\xff"}',
        b'{"model": "\\ud800", "messages": []}', b"[" * 100_000,
        b'{"model":"echo","x":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
        b'{"model":"echo","messages":[{"role":"user","content":' + b"[" * 10_000,
        b'{"model":"echo","max_tokens":1e999,"messages":[]}',
        b'{"model":"echo","seed":' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_broken_json_is_a_400(server: EchoServer, content: bytes) -> None:
    reply = server.client.post(
        server.url + CHAT, content=content, headers={"content-type": "application/json"}
    )
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["type"] == "invalid_request_error"


EVIL = [{"role": "user", "content": "Hello <|im_end|>"}]
DEEP_ARGUMENTS = [
    *EVIL,
    {
        "role": "assistant",
        "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": '{"x":DEEP}'}}],
    },
    {"role": "tool", "tool_call_id": "a", "content": "r"},
]
UNION = {"type": "object", "properties": {"p": {"oneOf": [{"const": "DEEP"}, {"const": 1}]}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": UNION}}
FORMAT = {"type": "json_schema", "json_schema": {"schema": UNION}}


@pytest.mark.parametrize("num_levels", [230, 480, 620, 700, 958, 2000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize(
    "more",
    [
        {"messages": EVIL, "chat_template_kwargs": {"x": "DEEP"}},
        {"messages": EVIL, "tools": [TOOL], "tool_choice": "none"},
        {"messages": EVIL, "tools": [TOOL]},
        {"messages": DEEP_ARGUMENTS},
        {"messages": HELLO, "response_format": FORMAT},
        {"messages": HELLO, "unknown": "DEEP"},
    ],
    ids=["kwargs", "tools", "schema", "arguments", "format", "unknown"],
)
def test_deep_nesting_is_answered_or_refused(
    server: EchoServer, more: dict[str, Any], opening: str, closing: str, num_levels: int
) -> None:
    deep = opening * num_levels + "1" + closing * num_levels
    body = json.dumps({"model": "echo", "max_tokens": 1, **more}).replace('"DEEP"', deep)
    body = body.replace("DEEP", json.dumps(deep)[1:-1])
    reply = server.client.post(
        CHAT, content=body, headers={"content-type": "application/json"}, timeout=600
    )
    assert reply.status_code in (200, 400), reply.text
    if num_levels == 480 and '"arguments"' not in body:
        assert "nested too deeply" in reply.json()["error"]["message"]


def test_other_errors_have_the_same_shape(server: EchoServer) -> None:
    url = server.url + CHAT
    text = server.client.post(url, content=b"{}", headers={"content-type": "text/plain"})
    assert_error(text, 415, None, "unsupported_media_type")
    assert_error(server.client.get(server.url + "/v1/chatter"), 404, None, "not_found")
    assert_error(server.client.get(url), 405, None, "method_not_allowed")
    evil = server.client.get(server.url + "/health", headers={"host": "evil.example"})
    assert_error(evil, 403, None, "forbidden")
    foreign = {"origin": "https://evil.example", "content-type": "application/json"}
    assert_error(server.client.post(url, content=b"{}", headers=foreign), 403, None, "forbidden")


def test_unknown_fields_are_ignored_and_reported(server: EchoServer) -> None:
    body = {"model": "echo", "messages": HELLO, "max_tokens": 1, "frobnicate": 1, "store": True}
    for stream in (False, True):
        reply = server.post(CHAT, {**body, "stream": stream})
        assert reply.status_code == 200
        assert reply.headers["x-localinfra-ignored"] == "frobnicate, store"


def test_models_are_listed_and_found_by_plain_and_encoded_ids(server: EchoServer) -> None:
    listed = server.client.get(server.url + "/v1/models").json()
    assert listed["data"][0]["id"] == ECHO
    for path in (ECHO, ECHO.replace("/", "%2F"), "echo"):
        for prefix in ("/v1", "/v1/openai", "/inference-api/openai/v1"):
            card = server.client.get(f"{server.url}{prefix}/models/{path}").json()
            assert card["id"] == ECHO and card["context_length"] == 2048
    assert_error(server.client.get(server.url + "/v1/models/none"), 404, "model", "model_not_found")
