"""Anthropic's API through its own client: messages, streams, counts."""

import json
from typing import Any

import anthropic
import pytest
from echo import ECHO, EchoServer
from messaging import HELLO, RIVERS, TIME, WEATHER, content, greedy, num_input, wire

LONG: Any = [{"role": "user", "content": "word " * 200}]


def test_a_message_is_answered_with_blocks(claude: anthropic.Anthropic) -> None:
    system = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    message = claude.messages.create(**greedy(system=[system]))
    assert message.id.startswith("msg_") and message.type == "message"
    assert (message.role, message.model) == ("assistant", ECHO)
    [block] = message.content
    assert block.type == "text" and block.text
    assert message.stop_reason in ("end_turn", "max_tokens") and message.stop_sequence is None
    assert message.usage.output_tokens <= 40 and num_input(message) > 10
    assert message._request_id  # users quote it to support


def test_the_answer_is_the_same_as_of_chat_completions(
    server: EchoServer, claude: anthropic.Anthropic
) -> None:
    chat = server.post(
        "/v1/chat/completions",
        wire(messages=[{"role": "system", "content": "Be brief."}, *RIVERS]),
    ).json()
    message = claude.messages.create(**greedy(system="Be brief."))
    assert message.content[0].text == chat["choices"][0]["message"]["content"]
    assert num_input(message) == chat["usage"]["prompt_tokens"]
    assert message.usage.output_tokens == chat["usage"]["completion_tokens"]
    cost = message.usage.to_dict()["estimated_cost"]
    assert cost == chat["usage"]["estimated_cost"]


def test_cached_tokens_are_counted_separately(claude: anthropic.Anthropic) -> None:
    long = [{"role": "user", "content": "Count with me: " + "one two " * 60}]
    fields = greedy(messages=long, max_tokens=1)
    first, second = (claude.messages.create(**fields) for _ in range(2))
    assert num_input(first) == num_input(second)
    assert (second.usage.cache_read_input_tokens or 0) > 100 > second.usage.input_tokens


def test_the_end_of_a_turn_differs_from_max_tokens(claude: anthropic.Anthropic) -> None:
    whole = claude.messages.create(**greedy(messages=HELLO, max_tokens=300))
    assert whole.stop_reason == "end_turn"
    cut = claude.messages.create(**greedy(max_tokens=3))
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 3)
    nothing = claude.messages.create(**greedy(max_tokens=0))
    assert (nothing.stop_reason, nothing.content) == ("max_tokens", [])
    schema = {"type": "string", "minLength": 4000}
    long: Any = {"format": {"type": "json_schema", "schema": schema}}
    full = claude.messages.create(
        **greedy(
            model="thinker", messages=[{"role": "user", "content": "x " * 400}], max_tokens=500
        ),
        output_config=long,
    )
    assert full.stop_reason == "model_context_window_exceeded"
    assert num_input(full) + full.usage.output_tokens == 1024


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_sequence_is_reported(claude: anthropic.Anthropic, stream: bool) -> None:
    whole = claude.messages.create(**greedy()).content[0].text
    stop = whole.split()[3]
    fields = greedy(stop_sequences=["🦜 never", stop])
    if stream:
        with claude.messages.stream(**fields) as events:
            message: Any = events.get_final_message()
    else:
        message = claude.messages.create(**fields)
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stop)
    assert message.content[0].text == whole.split(stop)[0]


def test_a_last_assistant_message_is_continued(claude: anthropic.Anthropic) -> None:
    begun = {"role": "assistant", "content": "Name three"}
    message = claude.messages.create(**greedy(messages=[*RIVERS, begun]))
    assert message.content[0].text == " rivers of Europe."


def test_a_stream_adds_up_to_the_whole_message(claude: anthropic.Anthropic) -> None:
    whole = claude.messages.create(**greedy())
    with claude.messages.stream(**greedy()) as stream:
        text = "".join(stream.text_stream)
    final = stream.get_final_message()
    assert text == whole.content[0].text
    assert content(final) == content(whole)
    assert (final.stop_reason, final.model) == (whole.stop_reason, whole.model)
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert num_input(final) == num_input(whole)


def test_each_event_has_its_name_and_place(server: EchoServer) -> None:
    body = wire(stream=True, max_tokens=4)
    reply = server.post("/v1/messages", body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [event.split("\n") for event in reply.text.removesuffix("\n\n").split("\n\n")]
    names = [name.removeprefix("event: ") for name, _ in events]
    payloads = [json.loads(data.removeprefix("data: ")) for _, data in events]
    assert [payload["type"] for payload in payloads] == names
    assert names[:2] == ["message_start", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(names[2:-3]) == {"content_block_delta"}
    start = payloads[0]["message"]
    assert (start["content"], start["stop_reason"], start["stop_sequence"]) == ([], None, None)
    assert payloads[-2]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert payloads[-2]["usage"]["output_tokens"] == 4


def test_the_clients_raw_stream_is_the_same(claude: anthropic.Anthropic) -> None:
    raw = list(claude.messages.create(**greedy(), stream=True))
    text = "".join(
        event.delta.text
        for event in raw
        if event.type == "content_block_delta" and event.delta.type == "text_delta"
    )
    assert text == claude.messages.create(**greedy()).content[0].text


def test_a_client_that_leaves_frees_its_place(
    server: EchoServer, claude: anthropic.Anthropic
) -> None:
    asked = greedy(model="slow", messages=LONG, max_tokens=1500)
    with server.cut_short(1500), claude.messages.stream(**asked) as stream:
        next(iter(stream.text_stream))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"system": "Be brief."},
        {"tools": [WEATHER, TIME]},
        {"tools": [WEATHER], "tool_choice": {"type": "none"}},
        {"model": "thinker", "thinking": {"type": "disabled"}},
        {"messages": [*HELLO, {"role": "assistant", "content": "Hel"}]},
    ],
)
def test_a_count_equals_what_a_message_reports(claude: anthropic.Anthropic, fields: Any) -> None:
    asked = {"model": "echo", "messages": RIVERS, **fields}
    counted = claude.messages.count_tokens(**asked)
    assert counted.input_tokens == num_input(claude.messages.create(**asked, max_tokens=1))


def test_tools_count(claude: anthropic.Anthropic) -> None:
    plain = claude.messages.count_tokens(model="echo", messages=HELLO)
    tools = claude.messages.count_tokens(model="echo", messages=HELLO, tools=[WEATHER])
    assert tools.input_tokens > plain.input_tokens + 50


# Errors
