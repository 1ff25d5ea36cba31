"""Anthropic's API through its own client, over the real model."""

import anthropic
from messaging import QUESTION, WEATHER, greedy


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
