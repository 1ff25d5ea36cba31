"""Anthropic's API through its own client, over the real model."""

import anthropic
from messaging import QUESTION, TIME, WEATHER, check_call, greedy


def test_any_tool_must_be_called(claude: anthropic.Anthropic) -> None:
    message = claude.messages.create(
        **greedy(
            model="smollm2", messages=QUESTION, tools=[WEATHER, TIME], max_tokens=200,
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
        )
    )  # fmt: skip
    assert message.stop_reason == "tool_use"
    [block] = message.content
    check_call(block)


def test_results_of_calls_go_back(claude: anthropic.Anthropic) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}}
    result = {
        "type": "tool_result",
        "tool_use_id": "toolu_1",
        "content": [{"type": "text", "text": "21 degrees, sunny"}],
    }
    history = [
        *QUESTION,
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    message = claude.messages.create(
        **greedy(model="smollm2", messages=history, tools=[WEATHER], tool_choice={"type": "none"})
    )
    assert "21" in message.content[0].text
