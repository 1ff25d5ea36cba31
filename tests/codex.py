"""Requests as Codex CLI 0.171 sends them, by shape and size; the texts are made up."""

import itertools
from typing import Any

SENTENCES = (
    "Read the files that matter before you change them.",
    "Prefer small patches, and run the tests that cover them.",
    "When a command fails, look at its output first.",
    "Never touch what the user has not asked for.",
    "Say in one line what you are about to do.",
    "A path is relative to the working directory unless it begins with a slash.",
    "Output beyond the limit is cut in its middle.",
    "Escalate only where the sandbox gets in the way of the task.",
)


def prose(num_chars: int) -> str:
    return " ".join(itertools.islice(itertools.cycle(SENTENCES), num_chars // 50))


def function(name: str, *arguments: str, num_chars: int = 2000) -> dict[str, Any]:
    """With a description of this length, spread over the function and its arguments."""
    share = num_chars // (len(arguments) + 1)
    properties = {
        argument: {"type": "string", "maxLength": 40, "description": prose(share)}
        for argument in arguments
    }
    return {
        "type": "function", "name": name, "description": prose(share), "strict": False,
        "parameters": {
            "type": "object", "properties": properties, "required": list(arguments[:1]),
            "additionalProperties": False,
        },
    }  # fmt: skip


def tools(scale: float = 1) -> list[dict[str, Any]]:
    """Nine; at scale 1 of 25 kB."""
    size = int(1700 * scale)
    return [
        function("exec_command", "cmd", "workdir", "justification", num_chars=2 * size),
        function("write_stdin", "session_id", "chars", num_chars=size),
        function("request_user_input", "questions", num_chars=size),
        function("view_image", "path", num_chars=size),
        function("get_goal", num_chars=size // 2),
        function("create_goal", "objective", num_chars=size),
        function("update_goal", "status", num_chars=size),
        {
            "type": "namespace", "name": "multi_agent_v1", "description": prose(size // 4),
            "tools": [
                function("spawn_agent", "message", "agent_type", num_chars=2 * size),
                function("send_input", "id", "message", num_chars=size),
                function("wait_agent", "ids", "timeout_ms", num_chars=size),
                function("close_agent", "id", num_chars=size // 2),
                function("resume_agent", "id", num_chars=size // 2),
            ],
        },
        {"type": "web_search", "external_web_access": True},
    ]  # fmt: skip


def message(role: str, text: str, at: int) -> dict[str, Any]:
    parts = [{"type": "input_text", "text": text}]
    return {"type": "message", "id": f"msg_{at}", "role": role, "content": parts}


def opening(scale: float = 1) -> list[dict[str, Any]]:
    return [
        message("developer", prose(int(5000 * scale)), 0),
        message("developer", prose(int(4000 * scale)), 1),
        message(
            "user", f"<environment_context>{prose(int(2000 * scale))}</environment_context>", 2
        ),
        message("user", "List the files of this folder.", 3),
    ]


def request(items: list[dict[str, Any]], scale: float = 1, **fields: Any) -> dict[str, Any]:
    """A turn; at scale 1 of 40 kB."""
    return {
        "model": "smollm2",
        "instructions": prose(int(6000 * scale)),
        "input": items,
        "tools": tools(scale),
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0199f2c4-aaaa-7bbb-8ccc-0123456789ab",
        "client_metadata": {"x-codex-installation-id": "1b0c"},
        "text": {"verbosity": "medium"},
        **fields,
    }


def answered(items: list[dict[str, Any]], output: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The input of the next turn: what was put out, as Codex keeps it, and the calls' outputs."""
    kept = [{key: value for key, value in item.items() if key != "status"} for item in output]
    outputs = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "README.md\nsrc\n"}
        for item in output
        if item["type"] == "function_call"
    ]
    return [*items, *kept, *outputs]
