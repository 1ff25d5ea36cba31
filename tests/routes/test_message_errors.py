"""Every wrong request to Anthropic's API gets a clear error."""

import logging
from typing import Any

import anthropic
import pytest
from echo import EchoServer
from messaging import HELLO, WEATHER, greedy, wire

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}

INVALID = "invalid_request_error"

# body changes → status, type, param
ERRORS: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({"model": "claude-opus-4-8"}, 404, "not_found_error", "model"),
    ({"model": "absent"}, 503, "api_error", "model"),
    ({"model": "vectors"}, 400, INVALID, "model"),
    ({"model": None}, 400, INVALID, "model"),
    ({"messages": []}, 400, INVALID, "messages"),
    ({"messages": "Hello"}, 400, INVALID, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, 400, INVALID, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, 400, INVALID, "messages[0].content"),
    (
        {"messages": [{"role": "user", "content": [IMAGE]}]},
        400, INVALID, "messages[0].content[0]",
    ),
    (
        {"messages": [{"role": "user", "content": [{"text": "x"}]}]},
        400, INVALID, "messages[0].content[0].type",
    ),
    (
        {"messages": [{"role": "user", "content": "word " * 3000}]},
        400, INVALID, "messages",
    ),
    ({"system": 5}, 400, INVALID, "system"),
    ({"max_tokens": -2}, 400, INVALID, "max_tokens"),
    ({"temperature": 1.1}, 400, INVALID, "temperature"),
    ({"top_p": 0}, 400, INVALID, "top_p"),
    ({"top_k": 1000}, 400, INVALID, "top_k"),
    ({"stream": "yes"}, 400, INVALID, "stream"),
    ({"stop_sequences": "x"}, 400, INVALID, "stop_sequences"),
    ({"stop_sequences": ["x"] * 65}, 400, INVALID, "stop_sequences"),
    ({"stop_sequences": ["x" * 257]}, 400, INVALID, "stop_sequences[0]"),
    ({"metadata": {"user_id": 5}}, 400, INVALID, "metadata.user_id"),
    ({"thinking": {"type": "sometimes"}}, 400, INVALID, "thinking.type"),
    ({"thinking": {"type": "enabled", "budget_tokens": 0}}, 400, INVALID, "thinking.budget_tokens"),
    (
        {"tools": [{"type": "bash_20250124", "name": "bash"}], "tool_choice": {"type": "any"}},
        400, INVALID, "tool_choice",
    ),
    ({"tools": [WEATHER], "tool_choice": {"type": "maybe"}}, 400, INVALID, "tool_choice.type"),
    ({"tool_choice": {"type": "any"}}, 400, INVALID, "tool_choice"),
    (
        {"tools": [
            {"name": "f", "input_schema": {"properties": {"a": {"not": 3}}}, "strict": True}
        ]},
        400, INVALID, "tools[0].input_schema.properties.a.not",
    ),
    (
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "thing"}}}},
        400, INVALID, "output_config.format.schema",
    ),
    ({"output_config": {"format": {"type": "regex"}}}, 400, INVALID, "output_config.format.type"),
    ({"output_config": {"effort": "huge"}}, 400, INVALID, "output_config.effort"),
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("change", "status", "type", "param"), ERRORS)
def test_a_wrong_request_gets_a_clear_error(
    server: EchoServer,
    change: dict[str, Any],
    status: int,
    type: str,
    param: str | None,
    stream: bool,
) -> None:
    body = {"model": "echo", "messages": HELLO, "max_tokens": 1, "stream": stream, **change}
    reply = server.post("/v1/messages", body)
    assert reply.status_code == status, reply.text
    told = reply.json()
    assert told["type"] == "error" and told["request_id"] == reply.headers["request-id"]
    error = told["error"]
    assert (error["type"], error["param"]) == (type, param), error
    assert error["message"] and error["code"]


def test_its_client_raises_the_error_of_the_status(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        claude.messages.create(**greedy(model="ech"))
    assert "echo" in str(missing.value) and missing.value.request_id
    with pytest.raises(anthropic.BadRequestError) as wrong:
        claude.messages.create(**greedy(messages=[{"role": "user", "content": [IMAGE]}]))
    assert "image" in str(wrong.value)


def test_a_prompt_too_long_for_the_context_can_still_be_counted(
    server: EchoServer, claude: anthropic.Anthropic
) -> None:
    long: Any = [{"role": "user", "content": "word " * 3000}]
    reply = server.post("/v1/messages", wire(messages=long))
    assert "This model's maximum context length is 2048 tokens" in reply.text
    assert claude.messages.count_tokens(model="echo", messages=long).input_tokens > 3000


def test_unknown_fields_are_ignored_and_reported(server: EchoServer) -> None:
    body = wire(max_tokens=1, service_tier="standard_only", mcp_servers=[], frobnicate=1)
    for stream in (False, True):
        reply = server.post("/v1/messages", {**body, "stream": stream})
        assert reply.status_code == 200
        assert reply.headers["x-localinfra-ignored"] == "mcp_servers, frobnicate"


def test_the_user_is_logged(server: EchoServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "localinfra")
    server.post("/v1/messages", wire(max_tokens=1, metadata={"user_id": "user-7"}))
    assert "is for user 'user-7'" in caplog.text


def test_other_errors_have_the_same_shape(server: EchoServer) -> None:
    url = server.url + "/v1/messages"
    text = server.client.post(url, content=b"{}", headers={"content-type": "text/plain"})
    assert (text.status_code, text.json()["error"]["type"]) == (415, "invalid_request_error")
    assert server.client.get(url).json()["error"]["type"] == "invalid_request_error"
    assert server.client.post(url + "/batches").json()["error"]["type"] == "not_found_error"


def test_the_base_url_of_a_hosted_service_works_too(server: EchoServer) -> None:
    with anthropic.Anthropic(base_url=f"{server.url}/anthropic", auth_token="x") as client:
        assert client.messages.create(**greedy(max_tokens=1)).content
        assert client.messages.count_tokens(model="echo", messages=HELLO).input_tokens
