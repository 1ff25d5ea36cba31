"""Tool calls on the real model, through openai's client; the template knows no tools."""

from typing import Any

import openai
import pytest
from calling import MESSAGES, TOOLS, check_required_calls


@pytest.mark.parametrize("temperature", [0, 2])
def test_required_calls_are_valid(client: openai.OpenAI, temperature: float) -> None:
    check_required_calls(client, "smollm2", temperature)


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
