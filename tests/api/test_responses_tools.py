"""Which tools of a Responses request a model may or must call, and under which names."""

from typing import Any

import codex
import msgspec
import pytest
from asgi import scope_of
from starlette.requests import Request

from localinfra.api.generation.params import Defaults
from localinfra.api.http.body import decode
from localinfra.api.openai.responses.conversation import conversation_request
from localinfra.api.openai.responses.input import messages_of, read_input
from localinfra.api.openai.responses.output import OutputWriter
from localinfra.api.openai.responses.request import ResponsesRequest
from localinfra.api.openai.responses.tools import Offered, ToolName
from localinfra.chat.formats.pieces import CallArguments, CallEnd, CallStart
from localinfra.chat.messages import normalize
from localinfra.errors import InvalidRequest, UnsupportedParameter

ADD: Any = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": False}
SPAWN: Any = {"type": "function", "name": "spawn", "description": "Spawns."}
AGENTS: Any = {"type": "namespace", "name": "agents", "description": "Of agents.", "tools": [SPAWN]}
HOSTED: list[Any] = [
    {"type": "web_search", "external_web_access": True},
    {"type": "web_search_preview", "search_context_size": "low"},
    {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark"}},
    {"type": "image_generation", "output_format": "png"},
    {"type": "local_shell"},
    {"type": "shell"},
    {"type": "apply_patch"},
    {"type": "mcp", "server_label": "x", "server_url": "https://example.org", "tools": 5},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "file_search", "vector_store_ids": ["vs_1"]},
    {"type": "computer_use_preview", "display_width": 1, "display_height": 1},
    {"type": "tool_search"},
    {"type": "of_next_year", "name": 5, "parameters": "x"},
]


def request(**fields: Any) -> ResponsesRequest:
    body = msgspec.json.encode({"model": "m", "input": "Hi", **fields})
    return decode(body, ResponsesRequest).value


def offered(*tools: Any) -> Offered:
    return request(tools=list(tools)).offered


@pytest.mark.parametrize("hosted", HOSTED, ids=lambda tool: tool["type"])
def test_tools_that_can_not_run_here_are_ignored_and_reported(hosted: Any) -> None:
    found = offered(ADD, hosted, AGENTS)
    assert [tool.name for tool in found.tools] == ["add", "agents__spawn"]
    assert found.left_out == ["tools[1]"]
    alone = request(tools=[hosted])
    assert not alone.answer().use.tools and alone.offered.shown == []


def test_functions_in_a_namespace_have_flat_names_for_the_model_only() -> None:
    found = offered(AGENTS, {**AGENTS, "name": "mcp__x__", "tools": [*HOSTED[:1], ADD]})
    assert found.names == {
        "agents__spawn": ToolName("spawn", "agents"), "mcp__x__add": ToolName("add", "mcp__x__"),
    }  # fmt: skip
    assert found.left_out == ["tools[1].tools[0]"]
    assert [tool.param for tool in found.tools] == [
        "tools[0].tools[0].parameters", "tools[1].tools[1].parameters",
    ]  # fmt: skip
    shown = msgspec.to_builtins(found.shown[0])
    assert (shown["type"], shown["name"], shown["tools"][0]["name"]) == (
        "namespace", "agents", "spawn",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("namespace", "flat"),
    [
        ("my server!", "my_server___spawn"),
        ("a@b.c", "a_b.c__spawn"),
        ("天气", "59296c14__spawn"),
        ("新闻", "65b095fb__spawn"),
        ("x" * 200, "spawn"),
    ],
)
def test_a_namespace_may_have_any_name(namespace: str, flat: str) -> None:
    asked = request(tools=[ADD, {**AGENTS, "name": namespace}], tool_choice="required")
    assert [tool.name for tool in asked.answer().use.tools] == ["add", flat]
    writer = OutputWriter(asked.offered.names)
    writer.write([CallStart(flat), CallArguments("{}"), CallEnd()])
    call = msgspec.to_builtins(writer.items[0])
    assert (call["name"], call["namespace"]) == ("spawn", namespace)
    raw = [msgspec.json.decode(msgspec.json.encode(call))]
    said = messages_of(read_input(raw, lambda id, path: pytest.fail(id)).items)
    assert said[0].tool_calls and said[0].tool_calls[0].function.name == flat
    choice = {"type": "function", "name": "spawn", "namespace": namespace}
    tools = [ADD, {**AGENTS, "name": namespace}]
    assert request(tools=tools, tool_choice=choice).answer().use.tools[0].name == flat


def test_functions_of_one_name_in_two_namespaces_are_two() -> None:
    tools = [SPAWN, AGENTS, {**AGENTS, "name": "others"}]
    use = request(tools=tools).answer().use
    assert [tool.name for tool in use.tools] == ["spawn", "agents__spawn", "others__spawn"]
    with pytest.raises(InvalidRequest, match="Two tools"):
        request(tools=[AGENTS, AGENTS]).answer()


def test_a_call_is_returned_with_its_own_name_and_namespace() -> None:
    writer = OutputWriter(offered(ADD, AGENTS).names)
    events: list[Any] = []
    for name in ("agents__spawn", "add"):
        events = [*writer.write([CallStart(name), CallArguments("{}"), CallEnd()])]
    calls = msgspec.to_builtins(writer.items)
    assert [(call["name"], call.get("namespace")) for call in calls] == [
        ("spawn", "agents"), ("add", None),
    ]  # fmt: skip
    assert "namespace" not in calls[1]
    assert [event.name for event in events if event.kind.endswith("arguments.done")] == ["add"]
    raw = msgspec.json.decode(msgspec.json.encode(calls))
    message: Any
    [message] = normalize(messages_of(read_input(raw, lambda id, path: pytest.fail(id)).items))
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["agents__spawn", "add"]


@pytest.mark.parametrize(
    ("choice", "names", "is_required"),
    [
        ("auto", ["add", "agents__spawn"], False),
        ("required", ["add", "agents__spawn"], True),
        ("none", [], False),
        ({"type": "function", "name": "add"}, ["add"], True),
        ({"type": "function", "name": "spawn", "namespace": "agents"}, ["agents__spawn"], True),
        ({"type": "function", "name": "agents__spawn"}, ["agents__spawn"], True),
        ({"type": "function", "name": "spawn"}, ["agents__spawn"], True),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [
                {"type": "function", "name": "add"}, {"type": "web_search"}]},
            ["add"], False,
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [
                {"type": "function", "name": "spawn", "namespace": "agents"}]},
            ["agents__spawn"], True,
        ),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}, [], False),
    ],
)  # fmt: skip
def test_a_choice_names_functions_by_either_name(
    choice: Any, names: list[str], is_required: bool
) -> None:
    use = request(tools=[ADD, AGENTS, *HOSTED], tool_choice=choice).answer().use
    assert ([tool.name for tool in use.callable], use.is_required) == (names, is_required)


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        (HOSTED, "required", "tool_choice"),
        ([ADD, *HOSTED], {"type": "web_search"}, "tool_choice.type"),
        ([ADD, *HOSTED], {"type": "custom", "name": "apply_patch"}, "tool_choice.type"),
        ([ADD, *HOSTED], {"type": "mcp", "server_label": "x", "name": None}, "tool_choice.type"),
        (
            [ADD, *HOSTED],
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "web_search"}]},
            "tool_choice",
        ),
    ],
)
def test_a_choice_that_only_an_ignored_tool_fits_is_refused(
    tools: Any, choice: Any, param: str
) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        request(tools=tools, tool_choice=choice).answer()
    assert caught.value.param == param


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "name": "no"},
        {"type": "function", "name": "add", "namespace": "agents"},
        {"type": "function"},
        {"type": "allowed_tools", "tools": [{"type": "function", "name": "no"}]},
        "sometimes",
    ],
)
def test_a_choice_of_an_unknown_tool_is_reported(choice: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(tools=[ADD, AGENTS], tool_choice=choice).answer()
    assert (caught.value.param or "").startswith("tool_choice")


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"parameters": {}}, "tools[1].name"),
        ("f", "tools[1]"),
        ({"type": "function"}, "tools[1].name"),
        ({"type": "function", "name": "a b"}, "tools[1].name"),
        ({"type": "function", "name": "f", "parameters": "x", "strict": True},
         "tools[1].parameters"),
        ({"type": "function", "function": {"name": "a b"}}, "tools[1].function.name"),
        ({"type": "namespace", "name": "n", "tools": [{"type": "function"}]},
         "tools[1].tools[0].name"),
    ],
)  # fmt: skip
def test_a_wrong_function_is_reported_with_its_path(tool: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        offered(ADD, tool)
    assert caught.value.param == param


def test_other_fields_without_effect_are_reported() -> None:
    asked = request(
        include=["reasoning.encrypted_content", "web_search_call.action.sources"],
        truncation="auto", context_management=[{"type": "compaction"}],
        reasoning={"summary": "auto"}, text={"verbosity": "low"}, service_tier="priority",
        background=False, metadata={"a": "b"}, max_tool_calls=3, safety_identifier="s",
        prompt_cache_key="k", store=False, stream_options={"include_obfuscation": False},
    )  # fmt: skip
    asked.check()
    assert asked.left_out == [
        "include[1]", "truncation", "context_management", "text.verbosity", "reasoning.summary",
    ]  # fmt: skip


def test_both_turns_of_codex_are_understood() -> None:
    """A body of 40 kB, and the next one, with the calls and their outputs."""
    output: list[dict[str, Any]] = [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None,
         "content": [{"type": "reasoning_text", "text": "An agent, then."}]},
        {"type": "function_call", "id": "fc_1", "status": "completed", "call_id": "call_1",
         "name": "spawn_agent", "namespace": "multi_agent_v1", "arguments": '{"message": "ls"}'},
        {"type": "function_call", "id": "fc_2", "status": "completed", "call_id": "call_2",
         "name": "exec_command", "arguments": '{"cmd": "ls"}'},
        {"type": "web_search_call", "id": "ws_1", "status": "completed",
         "action": {"type": "search", "query": "ls"}},
    ]  # fmt: skip
    items = codex.opening()
    for turn in (items, codex.answered(items, output)):
        body = msgspec.json.encode(codex.request(turn))
        assert len(body) > 40_000
        decoded = decode(body, ResponsesRequest)
        asked = conversation_request(Request(scope_of()), decoded.value, None, Defaults())
        assert decoded.ignored == ("client_metadata",)
        left_out = ["reasoning.summary", "tools[8]"] + ["input[7]"] * (turn is not items)
        assert (asked.left_out, asked.unknown) == (left_out, [])
        use = asked.body.answer().use
        assert len(use.tools) == 12 and not use.is_required
        messages = normalize(asked.messages)
        assert [message["role"] for message in messages[:5]] == [
            "system", "developer", "developer", "user", "user",
        ]  # fmt: skip
    said: Any = messages[5]
    assert said["reasoning_content"] == "An agent, then."
    assert [call["function"]["name"] for call in said["tool_calls"]] == [
        "multi_agent_v1__spawn_agent", "exec_command",
    ]  # fmt: skip
    assert [message["tool_call_id"] for message in messages[6:]] == ["call_1", "call_2"]
