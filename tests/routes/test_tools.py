"""Tool calls through openai's client; the template knows no tools."""

import json
import re
from collections.abc import Callable
from typing import Any

import openai
import pytest
from calling import (
    MESSAGES,
    MOOD,
    TIME,
    TOOLS,
    WEATHER,
    check_call,
    check_required_calls,
    streamed_calls,
)


@pytest.mark.parametrize("temperature", [0, 2])
def test_required_calls_are_valid(client: openai.OpenAI, temperature: float) -> None:
    check_required_calls(client, "echo", temperature)


def test_a_required_call_is_not_cut_by_a_stop_string(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="echo", messages=MESSAGES, tools=[WEATHER], tool_choice="required",
        parallel_tool_calls=False, stop=["\n", "{"], max_tokens=200,
    )  # fmt: skip
    assert reply.choices[0].message.tool_calls
    check_call(reply.choices[0].message.tool_calls[0])


@pytest.mark.parametrize("name", ["get_weather", "now"])
def test_a_named_function_is_called(client: openai.OpenAI, name: str) -> None:
    reply = client.chat.completions.create(
        model="echo", messages=MESSAGES, tools=TOOLS, max_tokens=200,
        tool_choice={"type": "function", "function": {"name": name}},
    )  # fmt: skip
    assert reply.choices[0].finish_reason == "stop"  # as in OpenAI's API
    assert reply.choices[0].message.tool_calls
    [call] = reply.choices[0].message.tool_calls
    assert call.type == "function" and call.function.name == name
    check_call(call)


def test_streamed_calls_are_the_same_after_reassembly(client: openai.OpenAI) -> None:
    fields: Any = {"model": "echo", "messages": MESSAGES, "tools": TOOLS, "max_tokens": 400}
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


def test_the_clients_own_accumulator_reads_the_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="echo", messages=MESSAGES, tools=[WEATHER], tool_choice="required",
        parallel_tool_calls=False, max_tokens=200,
    ) as stream:  # fmt: skip
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
    assert len(done) == 1 and done[0].name == "get_weather"
    check_call(stream.get_final_completion().choices[0].message.tool_calls[0])  # type: ignore[index]


def test_none_ignores_the_tools_and_auto_may_answer(client: openai.OpenAI) -> None:
    for choice in ("none", "auto"):
        reply = client.chat.completions.create(
            model="echo", messages=[{"role": "user", "content": "Say hello."}], tools=TOOLS,
            tool_choice=choice, temperature=0, max_tokens=100,
        )  # fmt: skip
        message = reply.choices[0].message
        if choice == "none" or not message.tool_calls:
            assert message.content and not message.tool_calls
            assert reply.choices[0].finish_reason in ("stop", "length")
        else:
            for call in message.tool_calls:
                check_call(call)


@pytest.mark.parametrize(
    ("form", "fits"),
    [
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {
                "type": "object", "properties": {"mood": {"enum": ["good", "bad"]}},
                "required": ["mood"], "additionalProperties": False,
            }}},
            lambda text: json.loads(text)["mood"] in ("good", "bad"),
        ),
        ({"type": "regex", "regex": "[0-9]{3}"}, lambda text: re.fullmatch("[0-9]{3}", text)),
        (
            {"type": "grammar", "grammar": 'start: "yes" | "no"'},
            lambda text: text in ("yes", "no"),
        ),
    ],
    ids=["json", "regex", "grammar"],
)  # fmt: skip
def test_with_auto_an_answer_that_is_not_a_call_has_the_format(
    client: openai.OpenAI, form: Any, fits: Callable[[str], object]
) -> None:
    answer = client.chat.completions.create(
        model="echo", messages=MESSAGES, tools=TOOLS, tool_choice="auto", n=8,
        response_format=form, temperature=2, seed=1, max_tokens=300,
    )  # fmt: skip
    for choice in answer.choices:
        if choice.finish_reason == "tool_calls":
            for call in choice.message.tool_calls or []:
                json.loads(call.function.arguments)  # type: ignore[union-attr]
        elif choice.finish_reason == "stop":
            assert fits(choice.message.content or ""), choice


@pytest.mark.parametrize("max_tokens", [4, 30, 60, 70, 80])
def test_a_call_that_is_cut_off_is_returned_as_far_as_it_went(
    client: openai.OpenAI, max_tokens: int
) -> None:
    fields: Any = {"model": "echo", "messages": MESSAGES, "tools": [WEATHER], "temperature": 0}
    fields |= {"tool_choice": "required", "max_tokens": max_tokens, "seed": 1}
    whole = client.chat.completions.create(**fields).choices[0]
    assert whole.finish_reason == "length"
    calls = [
        (call.function.name, call.function.arguments) for call in whole.message.tool_calls or []
    ]
    assert bool(calls) == (max_tokens > 50)
    assert all(not is_json(arguments) for _, arguments in calls)
    chunks = list(client.chat.completions.create(**fields, stream=True))
    assert streamed_calls(chunks) == calls
    assert chunks[-1].choices[0].finish_reason == "length"


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("seed", range(3))
def test_no_call_repeats_another_of_the_same_answer(client: openai.OpenAI, seed: int) -> None:
    fields: Any = {"model": "echo", "messages": MESSAGES, "tools": [TIME, MOOD], "seed": seed}
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


def test_a_choice_that_repeats_its_call_ends_alone(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="echo", messages=MESSAGES, tools=[TIME, MOOD], tool_choice="required", n=3,
        max_tokens=600,
    )  # fmt: skip
    for choice in reply.choices:
        sent: list[Any] = choice.message.tool_calls or []
        calls = [(call.function.name, call.function.arguments) for call in sent]
        assert choice.finish_reason == "tool_calls" and len(calls) == len(set(calls))


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [
            {"type": "function", "function": {"name": "now"}}]}},
        {"type": "allowed_tools", "mode": "required", "tools": [
            {"type": "function", "name": "now"}]},
        {"type": "function", "name": "now"},
        {"function": {"name": "now"}},
    ],
)  # fmt: skip
def test_only_allowed_functions_are_called(client: openai.OpenAI, choice: Any) -> None:
    for seed in range(3):
        reply = client.chat.completions.create(
            model="echo", messages=MESSAGES, tools=TOOLS, tool_choice=choice, seed=seed,
            max_tokens=200,
        )  # fmt: skip
        [call] = reply.choices[0].message.tool_calls or []
        assert (call.function.name, call.function.arguments) == ("now", "{}")  # type: ignore[union-attr]


def test_the_model_sees_all_tools_whatever_is_allowed(client: openai.OpenAI) -> None:
    def num_prompt(choice: Any) -> int:
        reply = client.chat.completions.create(
            model="echo", messages=MESSAGES, tools=TOOLS, tool_choice=choice, max_tokens=1
        )
        assert reply.usage
        return reply.usage.prompt_tokens

    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "now"}}]}
    assert num_prompt({"type": "allowed_tools", "allowed_tools": allowed}) == num_prompt("auto")
    assert num_prompt({"type": "auto"}) == num_prompt("auto")
