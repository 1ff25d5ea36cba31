"""What tests of tool calls have in common: tools of OpenAI's form, and the calls of an answer."""

import json
from typing import Any

import jsonschema

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
