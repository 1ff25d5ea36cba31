"""What templates expect to be told under names of their own, and in shapes of their own."""

import datetime
import json

import pytest
from chat_templates import template

from localinfra.chat.messages import Json, Message
from localinfra.chat.variables import complete

CALLS = (
    "{% for c in m.tool_calls %}<call>{{ c.function.name }} "
    "{{ c.function.arguments | tojson }}</call>{% endfor %}"
)
HI = [Message("user", "Hi")]
NOW = datetime.datetime(2026, 11, 28, 12)


def tool(parameters: dict[str, Json]) -> dict[str, Json]:
    function: dict[str, Json] = {"name": "look", "description": "", "parameters": parameters}
    return {"type": "function", "function": function}


BARE = tool({"type": "object", "properties": {"a": {"type": ["null", "string"]}, "b": True}})


def test_a_template_may_read_functions_as_text_and_the_date() -> None:
    """firefunction: https://huggingface.co/fireworks-ai/llama-3-firefunction-v2"""
    source = (
        "{# tools #}{{ 'Known: ' + functions + ' on ' + datetime + '.' }}"
        "{% for m in messages %}{{ m.content or '' }}" + CALLS + "{% endfor %}"
    )
    known = template(source)
    told = known.render(HI, tools=[BARE], now=NOW).text
    functions, _, rest = told.removeprefix("Known: ").partition(" on ")
    assert json.loads(functions) == [BARE] and rest == "2026-11-28.Hi"
    assert known.render(HI, now=NOW).text == "Known: [] on 2026-11-28.Hi"
    own = known.render(HI, extra={"functions": "none", "datetime": "Sunday"}, now=NOW).text
    assert own == "Known: none on Sunday.Hi"


@pytest.mark.parametrize("needed", ["'' + part.description", "(part.type or 'any').upper()"])
def test_tools_are_completed_for_templates_that_fail_otherwise(needed: str) -> None:
    head = "{% for m in messages %}{{ m.content or '' }}" + CALLS + "{% endfor %}"
    head += "{% for tool in tools or [] %}|{{ tool.function.name }}:"
    head += "{% for name, part in tool.function.parameters.properties | items %}"
    tail = "{{ name }}: {{ part | tojson }}{% endfor %}{% endfor %}"
    text = template(head + tail).render(HI, tools=[BARE]).text
    assert text == 'Hi|look:a: {"type": ["null", "string"]}b: true'
    text = template(head + "{% set _ = " + needed + " %}" + tail).render(HI, tools=[BARE]).text
    assert text == 'Hi|look:a: {"description": "", "type": "string"}b: {"description": ""}'


def test_tools_are_completed_in_depth() -> None:
    deep: dict[str, Json] = {"type": "array"}
    for _ in range(10_000):
        deep = {"type": "object", "properties": {"a": deep}}
    assert len(complete([tool(deep)])) == 1
    nested: dict[str, Json] = {"type": "array", "items": {"type": ["object", "null"]}}
    [told] = complete([tool({"type": "object", "properties": {"a": nested}})])
    function = told["function"] if isinstance(told, dict) else None
    assert isinstance(function, dict)
    assert function["parameters"] == {
        "description": "",
        "type": "object",
        "additionalProperties": {},
        "properties": {
            "a": {
                "description": "",
                "type": "array",
                "items": {"description": "", "type": "object", "additionalProperties": {}},
            }
        },
    }
