"""Anthropic's API through its own client, over the real model."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from live import LiveServer
from messaging import QUESTION, RIVERS, TIME, WEATHER, check_call, content, greedy, num_input, wire


@pytest.fixture(scope="module")
def claude(server: LiveServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def test_the_answer_is_the_chat_routes(server: LiveServer, claude: anthropic.Anthropic) -> None:
    chat = server.post(
        "/v1/chat/completions",
        wire(model="smollm2", messages=[{"role": "system", "content": "Be brief."}, *RIVERS]),
    ).json()
    message = claude.messages.create(**greedy(model="smollm2", system="Be brief."))
    assert message.content[0].text == chat["choices"][0]["message"]["content"]
    assert num_input(message) == chat["usage"]["prompt_tokens"]
    assert message.usage.output_tokens == chat["usage"]["completion_tokens"]
    cost = message.usage.to_dict()["estimated_cost"]
    assert cost == chat["usage"]["estimated_cost"]


def test_a_stream_adds_up_to_the_whole_message(claude: anthropic.Anthropic) -> None:
    whole = claude.messages.create(
        **greedy(
            model="smollm2",
        )
    )
    with claude.messages.stream(
        **greedy(
            model="smollm2",
        )
    ) as stream:
        text = "".join(stream.text_stream)
    final = stream.get_final_message()
    assert text == whole.content[0].text
    assert content(final) == content(whole)
    assert (final.stop_reason, final.model) == (whole.stop_reason, whole.model)
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert num_input(final) == num_input(whole)


def test_any_tool_must_be_called(claude: anthropic.Anthropic) -> None:
    message = claude.messages.create(
        **greedy(model="smollm2", 
            messages=QUESTION, tools=[WEATHER, TIME], max_tokens=200,
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


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_comes_in_a_block_of_its_own(claude: anthropic.Anthropic, stream: bool) -> None:
    """The model has not ended its reasoning so soon: that is all there is; it counts as output."""
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


# What goes wrong
