"""What tests of tool calls have in common: tools of OpenAI's form, and the calls of an answer."""

import json
from typing import Any

import jsonschema
import openai

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 16},
                "unit": {"enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city", "unit"],
        },
    },
}
TIME: Any = {"type": "function", "function": {"name": "now", "description": None}}
TOOLS: Any = [WEATHER, TIME]
MOOD: Any = {
    "type": "function",
    "function": {
        "name": "set_mood",
        "parameters": {
            "type": "object",
            "properties": {"mood": {"enum": ["good", "bad"]}},
            "required": ["mood"],
        },
    },
}
MESSAGES: Any = [{"role": "user", "content": "What is the weather in Paris?"}]


def check_call(call: Any) -> None:
    arguments = json.loads(call.function.arguments)
    if call.function.name == "get_weather":
        jsonschema.validate(arguments, WEATHER["function"]["parameters"])
        assert set(arguments) <= {"city", "unit", "days"}
    else:
        assert (call.function.name, arguments) == ("now", {})


def streamed_calls(chunks: Any) -> list[tuple[str, str]]:
    calls: list[tuple[str, str]] = []
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        for part in choice.delta.tool_calls or ():
            if part.index == len(calls):
                calls.append((part.function.name, ""))
            name, arguments = calls[part.index]
            calls[part.index] = (name, arguments + (part.function.arguments or ""))
    return calls


def check_required_calls(client: openai.OpenAI, model: str, temperature: float) -> None:
    """Of three answers each calls once, with an id of its own."""
    reply = client.chat.completions.create(
        model=model, messages=MESSAGES, tools=TOOLS, tool_choice="required",
        temperature=temperature, parallel_tool_calls=False, max_tokens=200, n=3,
    )  # fmt: skip
    ids = set()
    for choice in reply.choices:
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        assert choice.message.tool_calls
        [call] = choice.message.tool_calls
        check_call(call)
        ids.add(call.id)
    assert len(ids) == 3
