"""What the model gets of a Responses request."""

from typing import Any

import msgspec
import pytest

from localinfra.api.http.body import decode
from localinfra.api.openai.responses.request import ResponsesRequest
from localinfra.chat.answer import ANY_OBJECT
from localinfra.errors import InvalidRequest

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "name": "add", "description": "Adds.", "parameters": SCHEMA}


def request(**fields: Any) -> ResponsesRequest:
    body = msgspec.json.encode({"model": "m", "input": "Hi", **fields})
    return decode(body, ResponsesRequest).value


def test_effort_reaches_the_template() -> None:
    asked = request(reasoning={"effort": "low", "summary": "auto"})
    assert asked.template_kwargs == {"reasoning_effort": "low"}
    both = request(reasoning={"effort": None}, chat_template_kwargs={"enable_thinking": False})
    assert both.template_kwargs == {"enable_thinking": False}


def test_flat_tools_reach_templates_in_their_form() -> None:
    use = request(tools=[TOOL]).answer().use
    [tool] = use.tools
    function = {"name": "add", "description": "Adds.", "parameters": SCHEMA}
    assert tool.definition == {"type": "function", "function": function}
    assert (tool.param, use.is_required) == ("tools[0].parameters", False)


@pytest.mark.parametrize(
    ("choice", "num_tools", "is_required", "is_named"),
    [
        ("none", 0, False, False),
        ("auto", 2, False, False),
        ("required", 2, True, False),
        ({"type": "function", "name": "add"}, 1, True, True),
    ],
)
def test_a_choice_determines_which_tools_the_model_sees(
    choice: Any, num_tools: int, is_required: bool, is_named: bool
) -> None:
    tools = [TOOL, {**TOOL, "name": "subtract"}]
    use = request(tools=tools, tool_choice=choice).answer().use
    found = (len(use.tools), use.is_required, use.is_named)
    assert found == (num_tools, is_required, is_named)


@pytest.mark.parametrize("is_parallel", [True, False])
def test_parallel_calls_can_be_switched_off(is_parallel: bool) -> None:
    use = request(tools=[TOOL], parallel_tool_calls=is_parallel).answer().use
    assert use.is_parallel is is_parallel


def test_a_format_keeps_the_path_of_its_schema() -> None:
    text = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}
    form = request(text=text).answer().format
    assert form and (form.schema, form.param) == (SCHEMA, "text.format.schema")
    form = request(text={"format": {"type": "json_object"}}).answer().format
    assert form and form.schema == ANY_OBJECT
    for plain in ({}, {"format": None}, {"format": {"type": "text"}}, {"verbosity": "low"}):
        assert request(text=plain).answer().format is None


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({}, None),
        ({"top_logprobs": 0}, None),
        ({"top_logprobs": 3}, 3),
        ({"include": ["message.output_text.logprobs"]}, 0),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 2}, 2),
        ({"include": ["reasoning.encrypted_content"]}, None),
    ],
)
def test_logprobs_are_computed_if_asked_for(fields: Any, count: int | None) -> None:
    asked = request(**fields)
    asked.check()
    assert asked.num_logprobs == count


def test_metadata_is_bounded() -> None:
    assert request(metadata={"k" * 64: "v" * 512}).metadata
    for metadata in ({"k" * 65: "v"}, {"k": "v" * 513}, {str(n): "" for n in range(17)}):
        with pytest.raises(InvalidRequest):
            request(metadata=metadata)
