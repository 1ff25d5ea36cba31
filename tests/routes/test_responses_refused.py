"""Every wrong Responses request gets a clear error."""

from typing import Any

import pytest
from answers import assert_error
from echo import EchoServer
from responding import TIME, TOOLS, WEATHER

IMAGE = {"type": "input_image", "image_url": "https://example.org/a.png"}
SCHEMA = {"type": "json_schema", "name": "x"}

# body changes → status, param, code
ERRORS: list[tuple[dict[str, Any], int, str | None, str]] = [
    ({"model": "gpt-4o"}, 404, "model", "model_not_found"),
    ({"model": "absent"}, 503, "model", "model_unavailable"),
    ({"model": "vectors"}, 400, "model", "invalid_value"),
    ({"model": None}, 400, "model", "invalid_value"),
    ({"input": [{"type": "reasoning", "id": "r", "summary": []}]}, 400, "input", "invalid_value"),
    ({"input": 5}, 400, "input", "invalid_value"),
    ({"input": [{"role": "user", "content": "x"}] * 10_001}, 400, "input", "invalid_value"),
    ({"input": "word " * 3000}, 400, "input", "context_length_exceeded"),
    ({"input": "a" * 4_000_000}, 400, "input", "context_length_exceeded"),
    ({"input": [{"role": "robot", "content": "x"}]}, 400, "input[0].role", "invalid_value"),
    (
        {"input": [{"role": "user", "content": [IMAGE]}]},
        400, "input[0].content[0]", "unsupported_parameter",
    ),
    ({"input": [{"type": "mcp_call", "id": "m"}]}, 400, "input", "invalid_value"),
    ({"input": [{"type": "web_search_call", "id": "w"}]}, 400, "input", "invalid_value"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, 404, "input[0].id", "not_found"),
    (
        {"previous_response_id": "resp_1"},
        404, "previous_response_id", "previous_response_not_found",
    ),
    ({"max_output_tokens": -2}, 400, "max_output_tokens", "invalid_value"),
    ({"temperature": 2.1}, 400, "temperature", "invalid_value"),
    ({"top_p": 0}, 400, "top_p", "invalid_value"),
    ({"top_logprobs": 21}, 400, "top_logprobs", "invalid_value"),
    ({"seed": -2}, 400, "seed", "invalid_value"),
    ({"stream": "yes"}, 400, "stream", "invalid_value"),
    (
        {"tools": [{"type": "web_search"}], "tool_choice": "required"},
        400, "tool_choice", "unsupported_parameter",
    ),
    ({"tools": [{"type": "function"}]}, 400, "tools[0].name", "invalid_value"),
    ({"tools": [{"type": "function", "name": "a b"}]}, 400, "tools[0].name", "invalid_value"),
    (
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        400, "tools[0].function.name", "invalid_value",
    ),
    ({"tools": [TIME, TIME]}, 400, "tools", "invalid_value"),
    (
        {"tools": [{**WEATHER, "parameters": {"properties": {"a": {"not": {}}}}}]},
        400, "tools[0].parameters.properties.a.not", "unsupported_parameter",
    ),
    ({"tool_choice": "required"}, 400, "tool_choice", "invalid_value"),
    ({"tools": TOOLS, "tool_choice": "sometimes"}, 400, "tool_choice", "invalid_value"),
    (
        {"tools": TOOLS, "tool_choice": {"type": "function", "name": "x"}},
        400, "tool_choice", "invalid_value",
    ),
    ({"tools": TOOLS, "tool_choice": {"type": "function"}}, 400, "tool_choice", "invalid_value"),
    (
        {"tools": TOOLS, "tool_choice": {"type": "web_search_preview"}},
        400, "tool_choice.type", "unsupported_parameter",
    ),
    (
        {"tools": TOOLS, "tool_choice": "required", "text": {"format": {"type": "json_object"}}},
        400, "tool_choice", "invalid_value",
    ),
    ({"text": {"format": {"type": "yaml"}}}, 400, "text.format.type", "unsupported_parameter"),
    ({"text": {"format": SCHEMA}}, 400, "text.format.schema", "invalid_value"),
    (
        {"text": {"format": {**SCHEMA, "schema": {"not": {}}}}},
        400, "text.format.schema.not", "unsupported_parameter",
    ),
    ({"text": {"verbosity": "loud"}}, 400, "text.verbosity", "invalid_value"),
    ({"reasoning": {"summary": "long"}}, 400, "reasoning.summary", "invalid_value"),
    ({"chat_template_kwargs": {"messages": 1}}, 400, "chat_template_kwargs", "invalid_value"),
    ({"include": ["message.thoughts"]}, 400, "include[0]", "unsupported_parameter"),
    ({"metadata": {"a": "b" * 513}}, 400, "metadata[...]", "invalid_value"),
    ({"metadata": {"a": 1}}, 400, "metadata[...]", "invalid_value"),
    ({"background": True, "store": False}, 400, "background", "invalid_value"),
    ({"truncation": "early"}, 400, "truncation", "invalid_value"),
    ({"conversation": "conv_1"}, 400, "conversation", "unsupported_parameter"),
    ({"stop": ["a"] * 65}, 400, "stop", "invalid_value"),
    ({"response_format": {"type": "text"}}, 400, "response_format", "unsupported_parameter"),
    ({"prompt": {"id": "pmpt_1"}}, 400, "prompt", "unsupported_parameter"),
    ({"moderation": {"model": "x"}}, 400, "moderation", "unsupported_parameter"),
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("change", "status", "param", "code"), ERRORS)
def test_a_wrong_request_gets_a_clear_error(
    server: EchoServer,
    change: dict[str, Any],
    status: int,
    param: str | None,
    code: str,
    stream: bool,
) -> None:
    body = {"model": "echo", "input": "Hi", "max_output_tokens": 1, "stream": stream, **change}
    assert_error(server.post("/v1/responses", body), status, param, code)
