"""Tool calls on the real model, through openai's client; the template knows no tools."""

import json
from typing import Any

import jsonschema
import openai
import pytest

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


def check(call: Any) -> None:
    arguments = json.loads(call.function.arguments)
    if call.function.name == "get_weather":
        jsonschema.validate(arguments, WEATHER["function"]["parameters"])
        assert set(arguments) <= {"city", "unit", "days"}
    else:
        assert (call.function.name, arguments) == ("now", {})


@pytest.mark.parametrize("temperature", [0, 2])
def test_required_calls_are_valid(client: openai.OpenAI, temperature: float) -> None:
    reply = client.chat.completions.create(
        model="smollm2", messages=MESSAGES, tools=TOOLS, tool_choice="required",
        temperature=temperature, parallel_tool_calls=False, max_tokens=200, n=3,
    )  # fmt: skip
    ids = set()
    for choice in reply.choices:
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        assert choice.message.tool_calls
        [call] = choice.message.tool_calls
        check(call)
        ids.add(call.id)
    assert len(ids) == 3


def test_streamed_calls_are_the_same_after_reassembly(client: openai.OpenAI) -> None:
    fields: Any = {"model": "smollm2", "messages": MESSAGES, "tools": TOOLS, "max_tokens": 400}
    fields |= {"tool_choice": "required", "seed": 3, "temperature": 1}
    whole = client.chat.completions.create(**fields).choices[0]
    chunks = list(client.chat.completions.create(**fields, stream=True))
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    calls: list[dict[str, str]] = []
    for delta in (part for each in deltas for part in each.tool_calls or ()):
        if delta.index == len(calls):
            assert delta.id and delta.type == "function" and delta.function.name
            assert delta.function.arguments == ""
            calls.append({"name": delta.function.name, "arguments": ""})
        else:
            assert delta.id is None and delta.function.name is None
            calls[delta.index]["arguments"] += delta.function.arguments
    assert whole.message.tool_calls
    assert calls == [
        {"name": call.function.name, "arguments": call.function.arguments}
        for call in whole.message.tool_calls
    ]
    [reason] = [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason]
    assert reason == whole.finish_reason


def test_none_ignores_the_tools_and_auto_may_answer(client: openai.OpenAI) -> None:
    for choice in ("none", "auto"):
        reply = client.chat.completions.create(
            model="smollm2", messages=[{"role": "user", "content": "Say hello."}], tools=TOOLS,
            tool_choice=choice, temperature=0, max_tokens=100,
        )  # fmt: skip
        message = reply.choices[0].message
        if choice == "none" or not message.tool_calls:
            assert message.content and not message.tool_calls
            assert reply.choices[0].finish_reason in ("stop", "length")
        else:
            for call in message.tool_calls:
                check(call)


def test_calls_and_results_go_back_through_the_template(client: openai.OpenAI) -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Paris", "unit": "celsius"}'},
    }
    history: Any = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "21 degrees, sunny"},
    ]
    reply = client.chat.completions.create(
        model="smollm2", messages=history, tools=TOOLS, tool_choice="none", temperature=0,
        max_tokens=60,
    )  # fmt: skip
    assert "21" in (reply.choices[0].message.content or "")


def streamed_calls(chunks: Any) -> list[tuple[str, str]]:
    calls: list[tuple[str, str]] = []
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        for part in choice.delta.tool_calls or ():
            if part.index == len(calls):
                calls.append((part.function.name, ""))
            name, arguments = calls[part.index]
            calls[part.index] = (name, arguments + (part.function.arguments or ""))
    return calls


@pytest.mark.parametrize("seed", range(3))
def test_no_call_repeats_another_of_its_answer(client: openai.OpenAI, seed: int) -> None:
    fields: Any = {"model": "smollm2", "messages": MESSAGES, "tools": [TIME, MOOD], "seed": seed}
    fields |= {"tool_choice": "required", "max_tokens": 600, "temperature": 1}
    whole = client.chat.completions.create(**fields).choices[0]
    assert whole.finish_reason == "tool_calls"
    calls = [
        (call.function.name, call.function.arguments) for call in whole.message.tool_calls or []
    ]
    assert 1 <= len(calls) == len(set(calls)) <= 3, "there are three that differ"
    chunks = list(client.chat.completions.create(**fields, stream=True))
    assert streamed_calls(chunks) == calls
    assert [c.finish_reason for k in chunks for c in k.choices if c.finish_reason] == ["tool_calls"]
