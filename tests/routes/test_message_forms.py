"""Anthropic's API through its own client: tools, thinking, structured output."""

import json
from typing import Any, Literal

import anthropic
import pydantic
import pytest
from messaging import HELLO, QUESTION, TIME, WEATHER, check_call, content, greedy, num_input

from localinfra.api.generation.carried import read_carried


def test_any_tool_must_be_called(claude: anthropic.Anthropic) -> None:
    message = claude.messages.create(
        **greedy(
            messages=QUESTION, tools=[WEATHER, TIME], max_tokens=200,
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
        )
    )  # fmt: skip
    assert message.stop_reason == "tool_use"
    [block] = message.content
    check_call(block)


@pytest.mark.parametrize("name", ["get_weather", "now"])
def test_a_named_tool_is_called(claude: anthropic.Anthropic, name: str) -> None:
    message = claude.messages.create(
        **greedy(
            messages=QUESTION, tools=[WEATHER, TIME], max_tokens=200,
            tool_choice={"type": "tool", "name": name},
        )
    )  # fmt: skip
    assert message.stop_reason == "tool_use"
    [block] = message.content
    assert block.name == name
    check_call(block)


def test_without_a_choice_the_model_decides_and_none_forbids(claude: anthropic.Anthropic) -> None:
    fields = greedy(messages=QUESTION, tools=[WEATHER], max_tokens=200)
    choices: list[Any] = [{"type": "auto"}, {"type": "none"}]
    for choice in choices:
        message = claude.messages.create(**fields, tool_choice=choice)
        calls = [block for block in message.content if block.type == "tool_use"]
        assert (message.stop_reason == "tool_use") == bool(calls)
        for call in calls:
            check_call(call)
    assert not calls and message.content[0].type == "text"


def test_a_streamed_call_adds_up_to_the_whole_one(claude: anthropic.Anthropic) -> None:
    choice = {"type": "any", "disable_parallel_tool_use": True}
    fields = greedy(messages=QUESTION, tools=[WEATHER], max_tokens=200, tool_choice=choice)
    with claude.messages.stream(**fields) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
    final = stream.get_final_message()
    [call] = final.content
    assert call.type == "tool_use" and call.name == "get_weather"
    assert len(pieces) > 1 and json.loads("".join(pieces)) == call.input
    [whole] = claude.messages.create(**fields).content
    assert whole.type == "tool_use" and whole.name == call.name
    for block in final.content:
        check_call(block)
    assert final.stop_reason == "tool_use"


def test_an_answer_can_be_sent_back_unchanged(claude: anthropic.Anthropic) -> None:
    """As every agent loop does."""
    fields = greedy(tools=[WEATHER], max_tokens=200)
    first = claude.messages.create(**fields | {"messages": QUESTION}, tool_choice={"type": "any"})
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "rain", "is_error": False}
        for block in first.content
        if block.type == "tool_use"
    ]
    history = [
        *QUESTION,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": results},
    ]
    second = claude.messages.create(**fields | {"messages": history})
    assert num_input(second) > num_input(first)


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_has_its_own_block(claude: anthropic.Anthropic, stream: bool) -> None:
    """max_tokens cuts the reasoning off, so there is nothing else; it counts as output."""
    thinking = {"type": "enabled", "budget_tokens": 1024}
    fields = greedy(model="thinker", thinking=thinking, max_tokens=8)
    if stream:
        with claude.messages.stream(**fields) as events:
            thoughts = "".join(event.thinking for event in events if event.type == "thinking")
            message: Any = events.get_final_message()
        assert thoughts == message.content[0].thinking
    else:
        message = claude.messages.create(**fields)
    [block] = message.content
    assert block.type == "thinking" and block.thinking and block.signature == ""
    assert message.stop_reason == "max_tokens"


def test_thinking_can_be_switched_off_or_left_out(claude: anthropic.Anthropic) -> None:
    fields = greedy(model="thinker")
    plain = claude.messages.create(**fields, thinking={"type": "disabled"})
    assert [block.type for block in plain.content] == ["text"]
    hidden = claude.messages.create(**fields, thinking={"type": "adaptive", "display": "omitted"})
    [block] = content(hidden)
    assert block["thinking"] == "" and read_carried(block["signature"])


def test_earlier_thinking_goes_back_to_the_template(claude: anthropic.Anthropic) -> None:
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    turn = {"role": "assistant", "content": [thinking, {"type": "text", "text": "Hello."}]}
    message = claude.messages.create(
        **greedy(model="thinker", messages=[*HELLO, turn, *HELLO], max_tokens=4)
    )
    assert message.content


class River(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=12)
    km: int = pydantic.Field(ge=0, le=9999)


class Bank(pydantic.BaseModel):
    """The client drops limits of numbers and strings from its schema."""

    side: Literal["left", "right"]
    is_steep: bool


@pytest.mark.parametrize("temperature", [0, 1])
def test_an_answer_can_be_constrained_to_a_schema(
    claude: anthropic.Anthropic, temperature: float
) -> None:
    message = claude.messages.create(
        **greedy(temperature=temperature, max_tokens=200),
        output_config={"format": {"type": "json_schema", "schema": River.model_json_schema()}},
    )
    River.model_validate_json(message.content[0].text)


def test_with_tools_an_answer_that_is_not_a_call_has_the_format(
    claude: anthropic.Anthropic,
) -> None:
    message = claude.messages.parse(**greedy(max_tokens=200, tools=[WEATHER]), output_format=Bank)
    if message.stop_reason == "tool_use":
        check_call(message.content[-1])
    else:
        assert isinstance(message.parsed_output, Bank)


def test_the_clients_own_parser_reads_it(claude: anthropic.Anthropic) -> None:
    message = claude.messages.parse(**greedy(max_tokens=200), output_format=Bank)
    assert isinstance(message.parsed_output, Bank)


# Errors
