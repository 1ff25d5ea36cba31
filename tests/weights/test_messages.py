"""Anthropic's API through its own client, over the real model."""

import json
import logging
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import httpx2
import jsonschema
import pydantic
import pytest
from live import SMOLLM2, LiveServer

HELLO: Any = [{"role": "user", "content": "Say hello."}]
RIVERS: Any = [{"role": "user", "content": "Name three rivers of Europe."}]
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 16},
            "unit": {"enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city", "unit"],
    },
}
TIME: Any = {"name": "now", "input_schema": {"type": "object", "properties": {}}}
QUESTION: Any = [{"role": "user", "content": "What is the weather in Paris?"}]


@pytest.fixture(scope="module")
def claude(server: LiveServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def wire(**fields: Any) -> dict[str, Any]:
    """A request as it is sent."""
    usual = {"model": "smollm2", "messages": RIVERS, "max_tokens": 40}
    return {**usual, "temperature": 0, "seed": 1, **fields}


def greedy(temperature: float = 0, **fields: Any) -> Any:
    """The client's arguments for it; it knows no seed, and since 2.11 no temperature of its own."""
    body = {**wire(**fields), "extra_body": {"temperature": temperature, "seed": 1}}
    del body["temperature"], body["seed"]
    return body


def content(message: Any) -> list[dict[str, Any]]:
    """The blocks as they came, ids apart."""
    blocks = json.loads(message.to_json())["content"]
    return [{key: value for key, value in block.items() if key != "id"} for block in blocks]


def num_input(message: Any) -> int:
    usage = message.usage
    cached = usage.cache_read_input_tokens + usage.cache_creation_input_tokens
    return int(usage.input_tokens + cached)


def test_a_message_is_answered_with_blocks(claude: anthropic.Anthropic) -> None:
    system = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    message = claude.messages.create(**greedy(system=[system]))
    assert message.id.startswith("msg_") and message.type == "message"
    assert (message.role, message.model) == ("assistant", SMOLLM2)
    [block] = message.content
    assert block.type == "text" and block.text
    assert message.stop_reason in ("end_turn", "max_tokens") and message.stop_sequence is None
    assert message.usage.output_tokens <= 40 and num_input(message) > 10
    assert message._request_id  # which its support would ask for


def test_the_answer_is_the_chat_routes(server: LiveServer, claude: anthropic.Anthropic) -> None:
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


def test_what_is_cached_is_counted_apart(claude: anthropic.Anthropic) -> None:
    long = [{"role": "user", "content": "Count with me: " + "one two " * 60}]
    fields = greedy(messages=long, max_tokens=1)
    first, second = (claude.messages.create(**fields) for _ in range(2))
    assert num_input(first) == num_input(second)
    assert (second.usage.cache_read_input_tokens or 0) > 100 > second.usage.input_tokens


def test_the_end_of_a_turn_is_told_from_max_tokens(claude: anthropic.Anthropic) -> None:
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
            model="thinker", messages=[{"role": "user", "content": "x " * 950}], max_tokens=500
        ),
        output_config=long,
    )
    assert full.stop_reason == "model_context_window_exceeded"
    assert num_input(full) + full.usage.output_tokens == 1024


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_sequence_is_named(claude: anthropic.Anthropic, stream: bool) -> None:
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
    begun = {"role": "assistant", "content": "Three rivers of Europe are the Danube, the"}
    message = claude.messages.create(**greedy(messages=[*RIVERS, begun]))
    assert message.content[0].text.startswith(" ")


# Streams


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


def test_each_event_has_its_name_and_place(server: LiveServer) -> None:
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


def test_a_stream_of_another_sort_of_client_is_the_same(claude: anthropic.Anthropic) -> None:
    raw = list(claude.messages.create(**greedy(), stream=True))
    text = "".join(
        event.delta.text
        for event in raw
        if event.type == "content_block_delta" and event.delta.type == "text_delta"
    )
    assert text == claude.messages.create(**greedy()).content[0].text


def test_a_client_that_leaves_frees_its_place(
    server: LiveServer, claude: anthropic.Anthropic
) -> None:
    with claude.messages.stream(**greedy(max_tokens=1500, temperature=1)) as stream:
        next(iter(stream.text_stream))
        server.wait_until(lambda stats: stats.num_running > 0)
    server.wait_until_idle()


# Tools


def check(block: Any) -> None:
    assert block.type == "tool_use" and block.id.startswith("toolu_")
    if block.name == "get_weather":
        jsonschema.validate(block.input, WEATHER["input_schema"])
    else:
        assert (block.name, block.input) == ("now", {})


def test_any_tool_must_be_called(claude: anthropic.Anthropic) -> None:
    message = claude.messages.create(
        **greedy(
            messages=QUESTION, tools=[WEATHER, TIME], max_tokens=200,
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
        )
    )  # fmt: skip
    assert message.stop_reason == "tool_use"
    [block] = message.content
    check(block)


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
    check(block)


def test_without_a_choice_the_model_decides_and_none_forbids(claude: anthropic.Anthropic) -> None:
    fields = greedy(messages=QUESTION, tools=[WEATHER], max_tokens=200)
    choices: list[Any] = [{"type": "auto"}, {"type": "none"}]
    for choice in choices:
        message = claude.messages.create(**fields, tool_choice=choice)
        calls = [block for block in message.content if block.type == "tool_use"]
        assert (message.stop_reason == "tool_use") == bool(calls)
        for call in calls:
            check(call)
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
        check(block)
    assert final.stop_reason == "tool_use"


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
        **greedy(messages=history, tools=[WEATHER], tool_choice={"type": "none"})
    )
    assert "21" in message.content[0].text


def test_an_answer_goes_back_as_it_came(claude: anthropic.Anthropic) -> None:
    """As every agent's loop does it."""
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


# Thinking


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


def test_thinking_can_be_switched_off_or_left_out(claude: anthropic.Anthropic) -> None:
    fields = greedy(model="thinker")
    plain = claude.messages.create(**fields, thinking={"type": "disabled"})
    assert [block.type for block in plain.content] == ["text"]
    hidden = claude.messages.create(**fields, thinking={"type": "adaptive", "display": "omitted"})
    assert content(hidden) == [{"type": "thinking", "thinking": "", "signature": ""}]


def test_earlier_thinking_goes_back_to_the_template(claude: anthropic.Anthropic) -> None:
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    turn = {"role": "assistant", "content": [thinking, {"type": "text", "text": "Hello."}]}
    message = claude.messages.create(
        **greedy(model="thinker", messages=[*HELLO, turn, *HELLO], max_tokens=4)
    )
    assert message.content


# Answers of a given form


class River(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=12)
    km: int = pydantic.Field(ge=0, le=9999)


class Bank(pydantic.BaseModel):
    """The client leaves limits of numbers and strings out of the schema it makes."""

    side: Literal["left", "right"]
    is_steep: bool


@pytest.mark.parametrize("temperature", [0, 1])
def test_an_answer_can_be_held_to_a_schema(claude: anthropic.Anthropic, temperature: float) -> None:
    message = claude.messages.create(
        **greedy(temperature=temperature, max_tokens=200),
        output_config={"format": {"type": "json_schema", "schema": River.model_json_schema()}},
    )
    River.model_validate_json(message.content[0].text)


def test_an_answer_that_is_no_call_has_the_format_beside_tools(
    claude: anthropic.Anthropic,
) -> None:
    message = claude.messages.parse(**greedy(max_tokens=200, tools=[WEATHER]), output_format=Bank)
    if message.stop_reason == "tool_use":
        check(message.content[-1])
    else:
        assert isinstance(message.parsed_output, Bank)


def test_the_clients_own_parser_reads_it(claude: anthropic.Anthropic) -> None:
    message = claude.messages.parse(**greedy(max_tokens=200), output_format=Bank)
    assert isinstance(message.parsed_output, Bank)


# Counting


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
def test_a_count_is_what_a_message_then_reports(claude: anthropic.Anthropic, fields: Any) -> None:
    asked = {"model": "smollm2", "messages": RIVERS, **fields}
    counted = claude.messages.count_tokens(**asked)
    assert counted.input_tokens == num_input(claude.messages.create(**asked, max_tokens=1))


def test_tools_count(claude: anthropic.Anthropic) -> None:
    plain = claude.messages.count_tokens(model="smollm2", messages=HELLO)
    tools = claude.messages.count_tokens(model="smollm2", messages=HELLO, tools=[WEATHER])
    assert tools.input_tokens > plain.input_tokens + 50


# What goes wrong

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}

INVALID = "invalid_request_error"

# body changes → status, type, param
ERRORS: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({"model": "claude-opus-4-8"}, 404, "not_found_error", "model"),
    ({"model": "absent"}, 503, "api_error", "model"),
    ({"model": "vectors"}, 400, INVALID, "model"),
    ({"model": None}, 400, INVALID, "model"),
    ({"messages": []}, 400, INVALID, "messages"),
    ({"messages": "Hello"}, 400, INVALID, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, 400, INVALID, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, 400, INVALID, "messages[0].content"),
    (
        {"messages": [{"role": "user", "content": [IMAGE]}]},
        400, INVALID, "messages[0].content[0]",
    ),
    (
        {"messages": [{"role": "user", "content": [{"text": "x"}]}]},
        400, INVALID, "messages[0].content[0].type",
    ),
    (
        {"messages": [{"role": "user", "content": "word " * 3000}]},
        400, INVALID, "messages",
    ),
    ({"system": 5}, 400, INVALID, "system"),
    ({"max_tokens": -2}, 400, INVALID, "max_tokens"),
    ({"temperature": 1.1}, 400, INVALID, "temperature"),
    ({"top_p": 0}, 400, INVALID, "top_p"),
    ({"top_k": 1000}, 400, INVALID, "top_k"),
    ({"stream": "yes"}, 400, INVALID, "stream"),
    ({"stop_sequences": "x"}, 400, INVALID, "stop_sequences"),
    ({"stop_sequences": ["x"] * 65}, 400, INVALID, "stop_sequences"),
    ({"stop_sequences": ["x" * 257]}, 400, INVALID, "stop_sequences[0]"),
    ({"metadata": {"user_id": 5}}, 400, INVALID, "metadata.user_id"),
    ({"thinking": {"type": "sometimes"}}, 400, INVALID, "thinking.type"),
    ({"thinking": {"type": "enabled", "budget_tokens": 0}}, 400, INVALID, "thinking.budget_tokens"),
    (
        {"tools": [{"type": "bash_20250124", "name": "bash"}], "tool_choice": {"type": "any"}},
        400, INVALID, "tool_choice",
    ),
    ({"tools": [WEATHER], "tool_choice": {"type": "maybe"}}, 400, INVALID, "tool_choice.type"),
    ({"tool_choice": {"type": "any"}}, 400, INVALID, "tool_choice"),
    (
        {"tools": [
            {"name": "f", "input_schema": {"properties": {"a": {"not": 3}}}, "strict": True}
        ]},
        400, INVALID, "tools[0].input_schema.properties.a.not",
    ),
    (
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "thing"}}}},
        400, INVALID, "output_config.format.schema",
    ),
    ({"output_config": {"format": {"type": "regex"}}}, 400, INVALID, "output_config.format.type"),
    ({"output_config": {"effort": "huge"}}, 400, INVALID, "output_config.effort"),
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("change", "status", "type", "param"), ERRORS)
def test_a_wrong_request_is_told_what_is_wrong(
    server: LiveServer,
    change: dict[str, Any],
    status: int,
    type: str,
    param: str | None,
    stream: bool,
) -> None:
    body = {"model": "smollm2", "messages": HELLO, "max_tokens": 1, "stream": stream, **change}
    reply = server.post("/v1/messages", body)
    assert reply.status_code == status, reply.text
    told = reply.json()
    assert told["type"] == "error" and told["request_id"] == reply.headers["request-id"]
    error = told["error"]
    assert (error["type"], error["param"]) == (type, param), error
    assert error["message"] and error["code"]


def test_its_client_raises_the_error_of_the_status(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        claude.messages.create(**greedy(model="smollm"))
    assert "smollm2" in str(missing.value) and missing.value.request_id
    with pytest.raises(anthropic.BadRequestError) as wrong:
        claude.messages.create(**greedy(messages=[{"role": "user", "content": [IMAGE]}]))
    assert "image" in str(wrong.value)


def test_what_does_not_fit_the_context_can_still_be_counted(
    server: LiveServer, claude: anthropic.Anthropic
) -> None:
    long: Any = [{"role": "user", "content": "word " * 3000}]
    reply = server.post("/v1/messages", wire(messages=long))
    assert "This model's maximum context length is 2048 tokens" in reply.text
    assert claude.messages.count_tokens(model="smollm2", messages=long).input_tokens > 3000


def test_unknown_fields_are_ignored_and_named(server: LiveServer) -> None:
    body = wire(max_tokens=1, service_tier="standard_only", mcp_servers=[], frobnicate=1)
    for stream in (False, True):
        reply = server.post("/v1/messages", {**body, "stream": stream})
        assert reply.status_code == 200
        assert reply.headers["x-localinfra-ignored"] == "mcp_servers, frobnicate"


def test_the_user_is_logged(server: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "localinfra")
    server.post("/v1/messages", wire(max_tokens=1, metadata={"user_id": "user-7"}))
    assert "is for user 'user-7'" in caplog.text


def test_other_refusals_have_the_same_shape(server: LiveServer) -> None:
    url = server.url + "/v1/messages"
    text = httpx2.post(url, content=b"{}", headers={"content-type": "text/plain"})
    assert (text.status_code, text.json()["error"]["type"]) == (415, "invalid_request_error")
    assert httpx2.get(url).json()["error"]["type"] == "invalid_request_error"
    assert httpx2.post(url + "/batches").json()["error"]["type"] == "not_found_error"


def test_the_base_url_of_a_hosted_service_works_too(server: LiveServer) -> None:
    with anthropic.Anthropic(base_url=f"{server.url}/anthropic", auth_token="x") as client:
        assert client.messages.create(**greedy(max_tokens=1)).content
        assert client.messages.count_tokens(model="smollm2", messages=HELLO).input_tokens
