"""A function in any API's form is the same function on chat and on the Responses API."""

import json
from typing import Any

import pytest
from asgi import scope_of
from starlette.requests import Request

from localinfra.api.generation.params import Defaults
from localinfra.api.http.body import decode
from localinfra.api.openai.chat import ChatCompletionRequest
from localinfra.api.openai.responses.conversation import conversation_request
from localinfra.api.openai.responses.request import ResponsesRequest
from localinfra.chat.answer import ToolUse
from localinfra.errors import InvalidRequest

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"name": "get_weather", "description": "Weather.", "parameters": SCHEMA}
FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "chat": ({"type": "function", "function": FUNCTION}, "function.parameters"),
    "chat without a type": ({"function": FUNCTION}, "function.parameters"),
    "responses": ({"type": "function", **FUNCTION, "strict": False}, "parameters"),
    "responses without a type": (FUNCTION, "parameters"),
    "messages": (
        {"name": "get_weather", "description": "Weather.", "input_schema": SCHEMA},
        "input_schema",
    ),
    "messages with a type": (
        {"type": "custom", "name": "get_weather", "description": "Weather.",
         "input_schema": SCHEMA},
        "input_schema",
    ),
}  # fmt: skip
CHOICES: list[Any] = [
    {"type": "function", "function": {"name": "get_weather"}},
    {"type": "function", "name": "get_weather"},
    {"type": "tool", "name": "get_weather"},
]
KINDS = [ChatCompletionRequest, ResponsesRequest]


def use(kind: type[Any], **fields: Any) -> tuple[ToolUse, list[str]]:
    """What the model may call, and what was ignored."""
    said = {"messages": [{"role": "user", "content": "a"}]}
    body = {"model": "m", **(said if kind is ChatCompletionRequest else {"input": "a"}), **fields}
    value = decode(json.dumps(body).encode(), kind).value
    return value.answer().use, value.offered.left_out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_each_form_declares_the_same_function(kind: type[Any], form: str) -> None:
    tool, param = FORMS[form]
    found, left_out = use(kind, tools=[tool])
    [declared] = found.tools
    assert declared.definition == {"type": "function", "function": FUNCTION}
    assert (declared.parameters, declared.param) == (SCHEMA, f"tools[0].{param}")
    assert not left_out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function", "function": {**FUNCTION, "strict": True}},
        {"type": "function", "function": FUNCTION, "strict": True},
        {"type": "function", **FUNCTION, "strict": True},
        {"name": "get_weather", "input_schema": SCHEMA, "strict": True},
    ],
)
def test_each_form_may_be_strict(kind: type[Any], tool: dict[str, Any]) -> None:
    assert use(kind, tools=[tool])[0].tools[0].is_strict


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("form", FORMS)
def test_each_form_can_be_required_by_each_form(kind: type[Any], form: str, choice: Any) -> None:
    found, _ = use(kind, tools=[FORMS[form][0]], tool_choice=choice)
    assert found.is_named and [tool.name for tool in found.tools] == ["get_weather"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("named", CHOICES[:2])
def test_tools_are_allowed_in_each_form(kind: type[Any], named: Any) -> None:
    inner = {"mode": "required", "tools": [named]}
    tools = [FORMS["chat"][0], {"type": "function", "name": "now"}]
    for choice in ({"type": "allowed_tools", **inner},
                   {"type": "allowed_tools", "allowed_tools": inner}):  # fmt: skip
        found, _ = use(kind, tools=tools, tool_choice=choice)
        assert found.allowed == frozenset({"get_weather"}) and found.is_required
        assert len(found.tools) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "hosted",
    [
        {"type": "custom", "custom": {"name": "patch"}},
        {"type": "custom", "name": "patch", "format": {"type": "text"}},
        {"type": "custom", "name": 5, "input_schema": None},
        {"type": "web_search", "name": [1], "parameters": "x", "function": 5},
        {"type": "namespace"},
        {"type": "namespace", "name": "n", "tools": None},
        {"type": "namespace", "name": "n", "tools": 5},
        {"type": "namespace", "tools": [FUNCTION]},
        {"type": "mcp"},
        {"google_search": {}},
        {"type": None, "googleSearch": {"dynamic_retrieval": 5}},
        {"type": "", "url_context": {}},
        {"functionDeclarations": [FUNCTION]},
        {"foo": 1},
        {"name": None, "code_execution": {}},
        {"description": "What could it be?"},
        {},
    ],
)
def test_tools_of_other_kinds_are_ignored_even_if_invalid(
    kind: type[Any], hosted: dict[str, Any]
) -> None:
    found, left_out = use(kind, tools=[hosted, FORMS["chat"][0]])
    assert [tool.name for tool in found.tools] == ["get_weather"] and left_out == ["tools[0]"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"type": "function", "function": {"description": "x"}}, "tools[0].function.name"),
        ({"type": "function", "function": {"name": "a b"}}, "tools[0].function.name"),
        ({"type": "function", "name": "a b"}, "tools[0].name"),
        ({"type": "function", "name": "f", "parameters": "x", "strict": True},
         "tools[0].parameters"),
        ({"name": "f", "input_schema": 5, "strict": True}, "tools[0].input_schema"),
    ],
)  # fmt: skip
def test_a_wrong_function_is_refused_with_its_path(
    kind: type[Any], tool: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        use(kind, tools=[tool])
    assert caught.value.param == param


# Items of other services' tools in a conversation

HELLO = {"role": "user", "content": "Hello"}
KINDS_OF_ITEMS = [
    *("mcp_call", "mcp_list_tools", "mcp_approval_request"),
    *("web_search_call", "file_search_call", "image_generation_call", "computer_call"),
    *("local_shell_call", "local_shell_call_output", "shell_call", "shell_call_output"),
    *("apply_patch_call", "apply_patch_call_output", "custom_tool_call", "of_next_year"),
    *("custom_tool_call_output", "computer_call_output", "compaction"),
]


@pytest.mark.parametrize("kind", KINDS_OF_ITEMS)
@pytest.mark.parametrize("more", [{}, {"id": None}, {"id": 5, "call_id": {}, "output": 5}])
def test_an_unusable_item_is_ignored_even_if_invalid(kind: str, more: dict[str, Any]) -> None:
    body = {"model": "m", "input": [HELLO, {"type": kind, **more}, HELLO]}
    decoded = decode(json.dumps(body).encode(), ResponsesRequest)
    asked = conversation_request(Request(scope_of()), decoded.value, None, Defaults())
    assert asked.left_out == ["input[1]"]
    assert [message.role for message in asked.messages] == ["user", "user"]


@pytest.mark.parametrize(
    "items",
    [
        [{"type": "custom_tool_call", "name": "patch"},
         {"type": "custom_tool_call_output", "call_id": "c", "output": "done"}],
        [{"type": "shell_call"}, {"type": "shell_call_output", "call_id": "c", "output": []}],
    ],
)  # fmt: skip
def test_the_output_of_an_ignored_call_is_ignored_too(items: list[Any]) -> None:
    body = {"model": "m", "input": [HELLO, *items]}
    asked = conversation_request(
        Request(scope_of()),
        decode(json.dumps(body).encode(), ResponsesRequest).value,
        None,
        Defaults(),
    )
    assert asked.left_out == ["input[1]", "input[2]"] and len(asked.messages) == 1


def test_a_call_without_an_id_keeps_its_output() -> None:
    item = {"type": "mcp_call", "name": "ask", "server_label": "wiki", "arguments": "{}",
            "output": "42"}  # fmt: skip
    body = {"model": "m", "input": [HELLO, item]}
    asked = conversation_request(
        Request(scope_of()),
        decode(json.dumps(body).encode(), ResponsesRequest).value,
        None,
        Defaults(),
    )
    _, call, result = asked.messages
    assert call.tool_calls and call.tool_calls[0].id == result.tool_call_id
    assert result.content == "42" and not asked.left_out


def test_an_outputs_path_is_right_after_items_that_become_two_or_none() -> None:
    items = [HELLO, {"type": "web_search_call"}, {"type": "code_interpreter_call", "code": "1"},
             {"type": "function_call_output", "call_id": "nobody", "output": "1"}]  # fmt: skip
    body = json.dumps({"model": "m", "input": items}).encode()
    with pytest.raises(InvalidRequest) as caught:
        conversation_request(
            Request(scope_of()), decode(body, ResponsesRequest).value, None, Defaults()
        )
    assert caught.value.param == "input[3].call_id"
