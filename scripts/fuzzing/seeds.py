"""Valid requests to begin with: the document's examples, and bodies of real clients."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "tests"))

from codex import opening, request

from fuzzing.values import GRAMMARS, PATTERNS, SCHEMAS, Json

METHODS = ("get", "post", "put", "delete")
# Each takes seconds: loaded models are the rule that clients meet.
RARE = {"load_model", "unload_model", "reload_models"}


@dataclass(frozen=True)
class Route:
    """An operation of the document. `path` may have parameters."""

    operation: str
    method: str
    path: str
    paths: tuple[str, ...]  # all that lead to it
    query: tuple[Mapping[str, Any], ...]
    schema: Any = None  # of its body; None: it has none
    bodies: tuple[Json, ...] = ()  # valid ones
    ids: tuple[str, ...] = ()  # what may stand for the path's parameter
    files: tuple[str, ...] | None = None  # fields that a form may send as files; None: no forms
    statuses: frozenset[int] = field(default_factory=frozenset)


def routes_of(document: Mapping[str, Any]) -> list[Route]:
    models = tuple(document["x-example-models"])
    return [
        _route(path, method, item[method], models)
        for path, item in document["paths"].items()
        for method in METHODS
        if method in item
    ]


def _route(path: str, method: str, operation: Any, models: tuple[str, ...]) -> Route:
    parameters = operation.get("parameters", ())
    content = operation.get("requestBody", {}).get("content", {})
    body = content.get("application/json", {})
    form = content.get("multipart/form-data")
    name = operation["operationId"]
    ids = [
        example["value"]
        for one in parameters
        if one["in"] == "path"
        for example in one.get("examples", {}).values()
    ]
    return Route(
        name,
        method.upper(),
        path,
        (path, *operation.get("x-also-at", ())),
        tuple(one for one in parameters if one["in"] == "query"),
        body.get("schema"),
        (*(one["value"] for one in body.get("examples", {}).values()), *REAL.get(name, ())),
        (*ids, *(models if "/models/" in path else ()), *OWN_IDS),
        tuple(form.get("encoding", ())) if form else None,
        frozenset(map(int, operation["responses"])),
    )


# Ids of what requests leave behind; `resp_` and `chat` ids can be chosen or guessed by nobody.
OWN_IDS = ("fuzz-1", "none", "resp_00000000000000000000000000000000", "rivers")


def filled(path: str, id: str) -> str:
    before, brace, rest = path.partition("{")
    return before + quote(id, safe="/:") + rest.partition("}")[2] if brace else path


# --- what clients send beyond the document's examples ---------------------------------------------

SMOL = "HuggingFaceTB/SmolLM2-135M-Instruct"
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Finds a file.",
        "parameters": {
            "type": "object",
            "properties": {
                "path": {"type": "string", "maxLength": 12},
                "kind": {"enum": ["file", "folder", None]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
                "names": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
            },
            "required": ["path"],
        },
        "strict": True,
    },
}
TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": [{"type": "text", "text": "Find a.txt"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "find", "arguments": '{"path": "a.txt"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "found"},
    {"role": "user", "content": "And b.txt?"},
]
EVERYTHING = {
    "model": SMOL,
    "messages": HELLO,
    "max_tokens": 4,
    "temperature": 0.7,
    "top_p": 0.9,
    "min_p": 0.05,
    "top_k": 40,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "repetition_penalty": 1.1,
    "logit_bias": {"5": -100, "17": 3.5},
    "stop": ["\n\n", "END"],
    "n": 2,
    "seed": 7,
    "logprobs": True,
    "top_logprobs": 4,
    "stream": True,
    "stream_options": {"include_usage": True},
    "user": "fuzz",
    "reasoning_effort": "low",
    "chat_template_kwargs": {"enable_thinking": False},
}
COMPLETION = {
    "model": SMOL,
    "prompt": ["One, two,", "A, b,"],
    "max_tokens": 4,
    "echo": True,
    "logprobs": 2,
    "n": 2,
    "best_of": 2,
    "stop": "\n",
    "seed": 1,
    "logit_bias": {"9": 2},
}
CLAUDE = {
    "model": SMOL,
    "system": [
        {"type": "text", "text": "You are an agent.", "cache_control": {"type": "ephemeral"}}
    ],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "List."}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": ""},
                {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "content": [{"type": "text", "text": "README.md"}],
                },
                {"type": "text", "text": "Go on."},
            ],
        },
    ],
    "tools": [
        {
            "name": "Bash",
            "input_schema": {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object",
                "properties": {"command": {"type": "string"}},
                "required": ["command"],
            },
        },
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
    ],
    "metadata": {"user_id": "x"},
    "max_tokens": 4,
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "stop_sequences": ["END"],
    "output_config": {"effort": "high"},
    "top_k": 5,
    "stream": True,
}
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
PICTURED = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is it?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        ],
    }
]


def _formats() -> Iterator[Json]:
    """Hard schemas, patterns and grammars as the answer's required form."""
    for schema in SCHEMAS:
        if isinstance(schema, dict):
            yield {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    yield from ({"type": "regex", "regex": pattern} for pattern in PATTERNS)
    yield from ({"type": "grammar", "grammar": grammar} for grammar in GRAMMARS)
    yield {"type": "json_object"}


def _chats() -> Iterator[Json]:
    chat = {"model": SMOL, "messages": HELLO, "max_tokens": 6}
    yield EVERYTHING
    yield {**chat, "messages": TALK, "tools": [TOOL], "parallel_tool_calls": False}
    yield {
        **chat,
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "find"}},
    }
    yield {**chat, "messages": PICTURED}
    yield {**chat, "messages": [*HELLO, {"role": "assistant", "content": "I am"}], "stream": True}
    yield {**chat, "background": True, "stream": True}
    yield {**chat, "thinking": {"type": "disabled"}, "functions": [], "modalities": ["text"]}
    for form in _formats():
        yield {**chat, "response_format": form}


REAL: Mapping[str, tuple[Json, ...]] = {
    "create_chat_completion": tuple(_chats()),
    "create_engine_chat_completion": (EVERYTHING,),
    "create_completion": (
        COMPLETION,
        {"model": SMOL, "prompt": [[1, 2, 3], [4]], "max_tokens": 3, "stream": True},
        {"model": SMOL, "prompt": "a", "suffix": "b", "max_tokens": 3},
        {"model": SMOL, "prompt": "a", "max_tokens": 3, "response_format": {"type": "json_object"}},
    ),
    "create_engine_completion": (COMPLETION,),
    "create_response": (
        request(opening(0.01), 0.01, model=SMOL, max_output_tokens=4),
        {
            "model": SMOL,
            "input": "Hi",
            "max_output_tokens": 4,
            "instructions": "Be short.",
            "previous_response_id": "resp_00000000000000000000000000000000",
            "truncation": "auto",
            "text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMAS[9]}},
            "reasoning": {"effort": "low"},
            "store": True,
            "metadata": {"a": "b"},
            "top_logprobs": 2,
            "include": ["message.output_text.logprobs"],
        },
        {
            "model": SMOL,
            "max_output_tokens": 4,
            "input": [
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "1"},
                {"type": "reasoning", "summary": [], "encrypted_content": "x"},
                {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            ],
        },
    ),
    "create_message": (CLAUDE,),
    "count_message_tokens": (CLAUDE,),
    "create_ollama_chat": (
        {
            "model": SMOL,
            "messages": TALK[:2],
            "format": "json",
            "keep_alive": "5m",
            "think": False,
            "options": {"num_predict": 4, "temperature": 0, "stop": ["x"], "num_ctx": 256},
        },
    ),
    "create_ollama_text": (
        {
            "model": SMOL,
            "prompt": "Hi",
            "suffix": "x",
            "system": "s",
            "template": "{{ .Prompt }}",
            "context": [1, 2],
            "images": [PIXEL],
            "options": {"num_predict": 4},
        },
    ),
    "create_tokens": (
        {"model": SMOL, "messages": TALK, "tools": [TOOL], "add_generation_prompt": True},
    ),
    "infer": (
        {
            "input": "Hi",
            "max_new_tokens": 4,
            "num_responses": 2,
            "stop": ["a"],
            "temperature": 0.5,
            "response_format": {"type": "json_object"},
        },
    ),
}
