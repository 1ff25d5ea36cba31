"""What coding agents and chat applications send and read, as it was recorded."""

from typing import Any

import anthropic
import httpx2
import openai
import pytest
from codex import prose
from echo import ECHO, EchoServer

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBOR"}}
CACHED = {"cache_control": {"type": "ephemeral"}}


def ignored(reply: httpx2.Response) -> set[str]:
    assert reply.status_code == 200, reply.text
    return set(reply.headers.get("x-localinfra-ignored", "").split(", "))


def claude_code(billed: str, *turns: dict[str, Any]) -> dict[str, Any]:
    """A request of Claude Code 2.1."""
    reminder = {"type": "text", "text": "<system-reminder>\nToday is a day.\n</system-reminder>"}
    return {
        "model": "echo",
        "system": [
            {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1.197.{billed};"},
            {"type": "text", "text": "You are a Claude agent.", **CACHED},
            {"type": "text", "text": prose(600), **CACHED},
        ],
        "messages": [
            {"role": "user", "content": [reminder, {"type": "text", "text": "List.", **CACHED}]},
            {"role": "system", "content": "Available agent types: none."},
            *turns,
        ],
        "tools": [
            {
                "name": "Bash", "description": "Runs a command.", "eager_input_streaming": True,
                "input_schema": {
                    "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
                    "properties": {"command": {"type": "string"}}, "required": ["command"],
                },
            },
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
        ],
        "metadata": {"user_id": '{"device_id":"2228949a"}'},
        "max_tokens": 8,
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "betas": ["context-management-2025-06-27"],
        "temperature": 0,
    }  # fmt: skip


RESULTS = [
    {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}, **CACHED},
        {"type": "tool_use", "id": "toolu_2", "name": "Bash", "input": {}},
        {"type": "tool_use", "id": "toolu_3", "name": "Bash", "input": {}},
    ]},
    {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "README.md", **CACHED},
        {"type": "tool_result", "tool_use_id": "toolu_2", "content": [
            {"type": "tool_reference", "tool_name": "WebFetch"}, {"type": "text", "text": "Two."}]},
        {"type": "tool_result", "tool_use_id": "toolu_3", "is_error": True, "content": [IMAGE]},
    ]},
]  # fmt: skip


def test_requests_of_claude_code_are_answered_and_counted(server: EchoServer) -> None:
    body = claude_code("b5b", *RESULTS)
    reply = server.post("/v1/messages?beta=true", body)
    assert ignored(reply) == {
        "system[0]", "tools[1]", "context_management", "betas", "tools[0].eager_input_streaming",
        "messages[3].content[1].content[0]", "messages[3].content[2].content[0]", "thinking",
        "output_config.effort",
    }  # fmt: skip
    counted = server.post("/v1/messages/count_tokens?beta=true", body)
    assert "system[0]" in ignored(counted)
    usage = reply.json()["usage"]
    read = usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert counted.json()["input_tokens"] == read


def test_a_new_conversation_of_claude_code_finds_its_prefix(server: EchoServer) -> None:
    """Though each has another billing line in front."""
    server.post("/v1/messages", claude_code("b5b"))
    usage = server.post("/v1/messages", claude_code("fc0")).json()["usage"]
    assert usage["input_tokens"] == 1 and usage["cache_read_input_tokens"] > 600


OUTPUTS: list[Any] = [
    {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "*** Begin"},
    {"type": "custom_tool_call_output", "call_id": "c1", "output": [
        {"type": "input_text", "text": "Done."}]},
    {"type": "local_shell_call", "call_id": "c2", "status": "completed",
     "action": {"type": "exec", "command": ["ls"], "env": {}}},
    {"type": "local_shell_call_output", "call_id": "c2", "output": "README.md"},
    {"type": "shell_call", "call_id": "c3", "action": {"commands": ["ls"]}},
    {"type": "shell_call_output", "call_id": "c3", "output": [
        {"stdout": "README.md", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}]},
    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
    {"type": "function_call", "call_id": "c4", "name": "view_image", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c4", "output": [
        {"type": "input_image", "image_url": "data:image/png;base64,iVBOR"},
        {"type": "input_text", "text": "A boat."}]},
    {"type": "tool_search_call", "call_id": "c5", "arguments": {"query": "x"}},
    {"type": "tool_search_output", "call_id": "c5", "tools": []},
]  # fmt: skip


def test_outputs_of_every_kind_of_tool_are_read(server: EchoServer) -> None:
    hosted = [{"type": kind} for kind in ("custom", "web_search", "image_generation")]
    body = {
        "model": "echo", "input": [{"role": "user", "content": "Hi"}, *OUTPUTS], "tools": hosted,
        "max_output_tokens": 1,
    }  # fmt: skip
    reply = server.post("/v1/responses", body)
    assert ignored(reply) == {
        "tools[0]", "tools[1]", "tools[2]", "input[7]", "input[9].output[0]", "input[10]",
        "input[11]",
    }  # fmt: skip


@pytest.mark.parametrize("input", [{}, {"input": ""}, {"input": []}, {"input": None}])
@pytest.mark.parametrize("stream", [False, True])
def test_an_empty_probe_is_answered(server: EchoServer, input: Any, stream: bool) -> None:
    body = {"model": "echo", "max_output_tokens": 1, "stream": stream, **input}
    reply = server.post("/v1/responses", body)
    assert reply.status_code == 200 and '"status":"' in reply.text


def test_models_are_listed_for_both_kinds_of_clients(
    server: EchoServer, client: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    server.post("/v1/tokenize", {"model": "echo", "prompt": "x"})
    for listed in (list(client.models.list()), list(claude.models.list(limit=1000))):
        assert [card.id for card in listed] == [ECHO, "thinker", "filler", "slow", "damaged"]
    card = claude.models.retrieve(ECHO)
    assert (card.type, card.display_name, card.lifecycle) == ("model", ECHO, "active")
    assert card.created_at.timestamp() == server.runtime.started_at
    assert card.max_input_tokens == 2048
    details = client.models.retrieve(ECHO).model_extra or {}
    assert details["context_length"] == details["max_model_len"] == 2048
