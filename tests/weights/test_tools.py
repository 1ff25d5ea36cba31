"""Tool calls on the real model, through openai's client; the template knows no tools."""

from typing import Any

import openai
import pytest
from calling import MESSAGES, TOOLS, check_call


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
        check_call(call)
        ids.add(call.id)
    assert len(ids) == 3


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
