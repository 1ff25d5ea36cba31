"""Schemas of tools, even odd ones: what is enforced, reported or refused."""

from typing import Any

import openai
import pytest
from calling import MESSAGES, TIME, TOOLS, WEATHER
from echo import EchoServer

UNENFORCEABLE: Any = {
    "type": "object",
    "properties": {
        "a": {"type": "object", "propertyNames": {"pattern": "^x"}},
        "b": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        "c": {"not": {"type": "string"}},
        "d": {"type": "integer", "nullable": True},
        "e": {"type": "integer", "format": "uint32"},
        "f": {"type": "string", "format": "uri-reference"},
        "g": {"type": "string", "pattern": "^(?!x)"},
    },
}
LEFT_OUT = ("a.propertyNames", "b.uniqueItems", "c.not", "e.format", "f.format", "g.pattern")


@pytest.mark.parametrize("choice", ["auto", "required", "none"])
def test_unenforced_parts_of_a_tools_schema_are_reported(server: EchoServer, choice: str) -> None:
    body = {"model": "echo", "messages": MESSAGES, "max_tokens": 2, "tool_choice": choice}
    reply = server.post(
        "/v1/chat/completions", body | {"tools": [TIME, with_parameters(UNENFORCEABLE)]}
    )
    assert reply.status_code == 200
    named = reply.headers.get("x-localinfra-ignored", "").split(", ")
    expected = [f"tools[1].function.parameters.properties.{path}" for path in LEFT_OUT]
    assert sorted(named) == (expected if choice != "none" else [""])


def test_the_other_routes_report_them_too(server: EchoServer) -> None:
    for path, body, within in (
        (
            "/v1/responses",
            {"input": "Hi", "max_output_tokens": 2, "tools": [
                {"type": "function", "name": "odd", "parameters": UNENFORCEABLE}]},
            "tools[0].parameters",
        ),
        (
            "/v1/messages",
            {"messages": MESSAGES, "max_tokens": 2, "tools": [
                {"name": "odd", "input_schema": UNENFORCEABLE}]},
            "tools[0].input_schema",
        ),
    ):  # fmt: skip
        reply = server.post(path, {"model": "echo", **body})
        assert reply.status_code == 200
        named = reply.headers["x-localinfra-ignored"].split(", ")
        assert sorted(named) == [f"{within}.properties.{path}" for path in LEFT_OUT]


# Parameters as generators write them, and the paths reported of them.
ODD: list[tuple[Any, list[str]]] = [
    ([], []),
    ("object", [""]),
    ([{"name": "city"}], [""]),
    ({"type": "string"}, ["type"]),
    ({"required": [["a"]]}, ["required"]),
    ({"type": "object", "properties": []}, ["properties"]),
    ({"properties": {"a": {"not": 3}, "b": None}}, ["properties.a.not", "properties.b"]),
    ({"properties": {"a": {"type": "any"}, "b": {"type": "float"}}}, ["properties.a.type"]),
    ({"properties": {"a": {"enum": []}}}, ["properties.a.enum"]),
    ({"properties": {"a": {"type": "string", "required": True}}}, []),
    ({"properties": {"a": {"minimum": "0"}, "b": {"minLength": -1}}}, ["properties.b.minLength"]),
    ({"properties": {"a": {"type": "string", "minLength": 3.0}}}, []),
    ({"properties": {"a": {}, "b": {}}, "minProperties": 1}, ["minProperties"]),
    ({"properties": {"a": {}, "b": {}}, "maxProperties": 1}, ["maxProperties"]),
    (
        {"properties": {"a": {"pattern": "^(?!x)"}, "b": {"pattern": "^x"}}},
        ["properties.a.pattern"],
    ),
    (
        {"properties": {"a": {"type": "integer", "minimum": 3, "maximum": 1}}, "required": ["a"]},
        ["properties.a"],
    ),
    ({"properties": {"a": {}}, "required": ["z"], "additionalProperties": False}, ["required"]),
    ({"properties": {"a": {"multipleOf": 99999989}}}, ["properties.a.multipleOf"]),
    ({"properties": {"a": {"oneOf": [{"type": "number"}, {}]}}}, ["properties.a.oneOf"]),
]  # fmt: skip


@pytest.mark.parametrize(("parameters", "named"), ODD, ids=range(len(ODD)))
def test_odd_parts_of_a_tools_schema_are_reported_and_the_rest_is_enforced(
    server: EchoServer, parameters: Any, named: list[str]
) -> None:
    body = {"model": "echo", "messages": MESSAGES, "max_tokens": 4, "tool_choice": "required"}
    reply = server.post("/v1/chat/completions", body | {"tools": [with_parameters(parameters)]})
    assert reply.status_code == 200, reply.text
    found = [path for path in reply.headers.get("x-localinfra-ignored", "").split(", ") if path]
    assert found == [f"tools[0].function.parameters.{path}".rstrip(".") for path in named]


def test_a_strict_tool_is_enforced_or_refused(client: openai.OpenAI) -> None:
    strict = with_parameters(UNENFORCEABLE)
    strict["function"]["strict"] = True
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="echo", messages=MESSAGES, tools=[strict])
    assert caught.value.code == "unsupported_parameter"
    assert caught.value.param == "tools[0].function.parameters.properties.a.propertyNames"


def with_parameters(parameters: object) -> Any:
    return {"type": "function", "function": {"name": "odd", "parameters": parameters}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice",
        ),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": TOOLS, "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "auto"}},
            "tool_choice.tools",
        ),
        (
            {
                "tools": TOOLS,
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "sometimes",
                        "tools": [{"type": "function", "function": {"name": "now"}}],
                    },
                },
            },
            "tool_choice.allowed_tools.mode",
        ),
        (
            {"tools": TOOLS, "tool_choice": "required", "response_format": {"type": "json_object"}},
            "tool_choice",
        ),
    ],
)
def test_odd_tools_fail_their_own_request(client: openai.OpenAI, fields: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="echo", messages=MESSAGES, **fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"type": "object"},
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {"s": {"type": "string", "maxLength": 65536}}},
        {"type": "object", "properties": {"s": {"type": "string", "pattern": r"^\d{1,3}$"}}},
        {"type": "object", "properties": {"s": {"type": ["string", "null"], "default": None}}},
    ],
)
def test_unusual_but_valid_tools_work(client: openai.OpenAI, parameters: object) -> None:
    reply = client.chat.completions.create(
        model="echo", messages=MESSAGES, tools=[with_parameters(parameters)],
        tool_choice="auto", max_tokens=4,
    )  # fmt: skip
    assert reply.choices[0].finish_reason
