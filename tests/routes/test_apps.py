"""Requests as the applications of docs/apps.md sent them, shortened."""

import json
from typing import Any

import httpx2
import pytest
from answers import ignored, parsed
from echo import EchoServer

ASKED = {"role": "user", "content": "Name three rivers."}
# Two of the 36 tools that Open WebUI offers by itself.
TIME: Any = {
    "type": "function",
    "function": {
        "name": "calculate_timestamp",
        "description": "Get the current Unix timestamp, optionally adjusted by days.",
        "parameters": {
            "properties": {"days_ago": {
                "default": 0, "description": "Number of days (default: 0)", "type": "integer",
            }},
            "type": "object",
        },
    },
}  # fmt: skip
QUESTIONS: Any = {
    "type": "function",
    "function": {
        "name": "ask_user",
        "description": "Ask the user clarifying questions before continuing.",
        "parameters": {
            "properties": {
                "questions": {
                    "items": {"additionalProperties": True, "type": "object"}, "type": "array",
                },
                "allow_other": {"default": True, "type": "boolean"},
            },
            "required": ["questions"],
            "type": "object",
        },
    },
}  # fmt: skip
CALLED = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{
        "id": "call_98025b46b81db89fe34233bb", "type": "function",
        "function": {"name": "calculate_timestamp", "arguments": '{"days_ago":1}'},
    }],
}  # fmt: skip
RESULT = {
    "role": "tool", "tool_call_id": "call_98025b46b81db89fe34233bb",
    "content": '{"current_timestamp":1795952263}',
}  # fmt: skip


def said(reply: httpx2.Response) -> str:
    """The text of a streamed conversation."""
    choices = [choice for event in parsed(reply.content) for choice in event["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def test_open_webui_chats_with_its_own_tools(server: EchoServer) -> None:
    """As 0.12.4 sent it."""
    body = {"stream": True, "model": "echo", "messages": [ASKED], "tools": [TIME, QUESTIONS]}
    assert ignored(server.post("/v1/chat/completions", body)) == [""]
    after = server.post("/v1/chat/completions", {**body, "messages": [ASKED, CALLED, RESULT]})
    assert ignored(after) == [""]
    assert list(parsed(after.content))[-1]["choices"][0]["finish_reason"] in ("stop", "length")


def test_open_webui_asks_for_titles_tags_and_queries_in_a_message(server: EchoServer) -> None:
    task = '### Output:\nJSON format: { "title": "your concise title here" }'
    body = {"model": "echo", "messages": [{"role": "user", "content": task}], "stream": False}
    reply = server.post("/v1/chat/completions", {**body, "max_tokens": 1000})
    assert ignored(reply) == [""] and reply.json()["choices"][0]["message"]["content"]
    over_ollama = server.post("/api/chat", {**body, "options": {"num_predict": 1000}})
    assert ignored(over_ollama) == [""] and over_ollama.json()["message"]["content"]


def test_open_webui_chats_with_its_own_tools_over_ollamas_api(server: EchoServer) -> None:
    body = {"model": "echo", "messages": [ASKED], "stream": True, "tools": [TIME, QUESTIONS]}
    assert ignored(server.post("/api/chat", body)) == [""]


def test_sillytavern_completes_as_with_vllm(server: EchoServer) -> None:
    """As 1.19 sent it: it also counts tokens by vLLM's route."""
    prompt = "Write Assistant's next reply in a fictional chat.\n***\nUser: Hello\nAssistant:"
    body = {
        "prompt": prompt, "model": "echo", "max_tokens": 350, "temperature": 1, "top_p": 0.95,
        "min_p": 0.01, "repetition_penalty": 1.1, "frequency_penalty": 0, "presence_penalty": 0,
        "top_k": 0, "min_tokens": 0, "stop": ["\nUser:", "\n***"], "skip_special_tokens": True,
        "n": 1, "ignore_eos": False, "spaces_between_special_tokens": True, "stream": True,
    }  # fmt: skip
    assert set(ignored(server.post("/v1/completions", body))) == {
        "min_tokens", "skip_special_tokens", "ignore_eos", "spaces_between_special_tokens",
    }  # fmt: skip
    counted = server.post("/tokenize", {"model": "echo", "prompt": prompt}).json()
    assert counted["count"] == len(counted["tokens"]) == len(prompt)


def test_sillytavern_completes_as_with_ollama(server: EchoServer) -> None:
    options = {
        "temperature": 1, "top_p": 0.95, "typical_p": 1, "min_p": 0.01, "frequency_penalty": 0,
        "presence_penalty": 0, "top_k": 0, "stop": ["\nUser:", "\n***"], "repeat_penalty": 1.1,
        "repeat_last_n": 0, "num_predict": 35, "num_ctx": 1024,
    }  # fmt: skip
    reply = server.post("/api/generate", {
        "model": "echo", "prompt": "Hello\n", "stream": True, "keep_alive": -1, "raw": True,
        "options": options,
    })  # fmt: skip
    assert ignored(reply) == ["options.typical_p", "options.repeat_last_n"]


def test_dify_asks_with_tools_and_for_a_schema(server: EchoServer) -> None:
    """As its plugin for compatible APIs, 0.0.63, sent it."""
    body = {
        "model": "echo", "temperature": 0.0, "max_tokens": 64, "messages": [ASKED],
        "tool_choice": "auto", "tools": [QUESTIONS], "stop": ["\nObservation"], "user": "user-1",
    }  # fmt: skip
    streamed = server.post(
        "/v1/chat/completions",
        {**body, "stream": True, "stream_options": {"include_usage": True}},
    )
    assert ignored(streamed) == [""] and said(streamed) == ASKED["content"]
    schema = {
        "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
        "additionalProperties": False,
    }  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    formed = server.post("/v1/chat/completions", {**body, "response_format": form})
    content = formed.json()["choices"][0]["message"]["content"]
    assert ignored(formed) == [""] and isinstance(json.loads(content)["a"], int)


def test_librechat_asks_for_a_title_by_a_schema(server: EchoServer) -> None:
    """As @librechat/agents 3.2.21 sent it, without `strict`."""
    text = {"type": "string", "description": "The detected language of the conversation"}
    schema = {
        "type": "object", "properties": {"language": text, "title": text},
        "required": ["language", "title"],
    }  # fmt: skip
    reply = server.post("/v1/chat/completions", {
        "model": "echo", "temperature": 0, "user": "u1", "stream": False, "messages": [ASKED],
        "response_format": {
            "type": "json_schema", "json_schema": {"name": "extract", "schema": schema},
        },
        "max_tokens": 2000,
    })  # fmt: skip
    assert ignored(reply) == [""]
    title = json.loads(reply.json()["choices"][0]["message"]["content"])
    assert title.keys() == {"language", "title"}


def test_n8n_asks_by_the_responses_api(server: EchoServer) -> None:
    """As 2.35 sent it."""
    message = {"type": "message", **ASKED}
    body = {"input": [message], "model": "echo", "temperature": 0, "stream": False, "text": {}}
    reply = server.post("/v1/responses", body)
    assert ignored(reply) == [""]
    assert reply.json()["output"][0]["content"][0]["text"] == ASKED["content"]


@pytest.mark.parametrize(
    "switch",
    [
        {"enable_thinking": False},  # RAGFlow, for models called Qwen3
        {"thinking": {"type": "disabled"}},  # what DeepSeek's and Zhipu's services read
        {"thinking": False},
        {  # Dify, with the compatibility mode "extended"
            "enable_thinking": False, "thinking": {"type": "disabled"},
            "chat_template_kwargs": {"enable_thinking": False, "thinking": False},
        },
    ],
)  # fmt: skip
def test_applications_turn_thinking_off(server: EchoServer, switch: dict[str, Any]) -> None:
    body = {"model": "thinker", "messages": [ASKED], "temperature": 0, "max_tokens": 64, **switch}
    reply = server.post("/v1/chat/completions", body)
    message = reply.json()["choices"][0]["message"]
    assert message["content"] == ASKED["content"] and "reasoning_content" not in message


@pytest.mark.parametrize(
    ("switch", "named"),
    [
        ({"enable_thinking": True}, ["enable_thinking"]),
        ({"thinking": {"type": "auto"}}, ["thinking"]),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 99}},
            ["thinking", "thinking.budget_tokens"],
        ),
    ],
)
def test_thinking_is_named_where_a_model_knows_none(
    server: EchoServer, switch: dict[str, Any], named: list[str]
) -> None:
    body = {"messages": [ASKED], "temperature": 0, "max_tokens": 8, **switch}
    assert ignored(server.post("/v1/chat/completions", {"model": "echo", **body})) == named
    thought = server.post("/v1/chat/completions", {"model": "thinker", **body})
    assert thought.json()["choices"][0]["message"]["reasoning_content"]


def test_the_templates_own_variables_come_before_the_switch(server: EchoServer) -> None:
    reply = server.post("/v1/chat/completions", {
        "model": "thinker", "messages": [ASKED], "temperature": 0, "enable_thinking": True,
        "chat_template_kwargs": {"enable_thinking": False},
    })  # fmt: skip
    assert "reasoning_content" not in reply.json()["choices"][0]["message"]
