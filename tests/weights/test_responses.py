"""POST /v1/responses with openai's client against SmolLM2."""

import asyncio
import json
import re
from typing import Any

import httpx2
import jsonschema
import openai
import pydantic
import pytest
from live import SMOLLM2, LiveServer
from openai.types.responses import (
    Response,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseReasoningItem,
)

COUNT = "Repeat the letters: a b c d e f g h i j k l m"
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 16}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function", "name": "get_weather", "description": "The weather of a city.",
    "parameters": PARAMETERS, "strict": True,
}  # fmt: skip
TIME: Any = {"type": "function", "name": "now", "parameters": None, "strict": None}
TOOLS = [WEATHER, TIME]
CALLED: dict[str, Any] = {"tool_choice": "required", "parallel_tool_calls": False}
HELLO: Any = {"format": {"type": "json_schema", "name": "x", "schema": {"enum": ["Hello!"]}}}


def create(client: openai.OpenAI, input: Any = COUNT, **fields: Any) -> Response:
    fields = {"model": "smollm2", "temperature": 0, "max_output_tokens": 8, **fields}
    answer = client.responses.create(input=input, **fields)
    assert isinstance(answer, Response)
    return answer


def message_of(response: Response) -> ResponseOutputMessage:
    [message] = [item for item in response.output if isinstance(item, ResponseOutputMessage)]
    return message


def calls_of(response: Response) -> list[ResponseFunctionToolCall]:
    return [item for item in response.output if isinstance(item, ResponseFunctionToolCall)]


def assert_read_the_same(later: Response, num_tokens: int) -> None:
    """It finds its whole prompt computed, but for the last token, by an earlier request of
    `num_tokens`. (Texts may differ: other shapes of a batch round differently.)"""
    assert later.usage and later.usage.input_tokens == num_tokens
    assert later.usage.input_tokens_details.cached_tokens == num_tokens - 1


def told(events: list[Any], kind: str) -> list[Any]:
    return [event for event in events if event.type == f"response.{kind}"]


# --- answers --------------------------------------------------------------------------------------


def test_a_response_has_openais_shape(client: openai.OpenAI) -> None:
    response = create(client, text=HELLO, max_output_tokens=40)
    assert (response.object, response.model) == ("response", SMOLLM2)
    assert re.fullmatch(r"resp_[0-9a-f]{48}", response.id)
    assert response.status == "completed" and response.error is None
    assert response.completed_at and response.completed_at >= response.created_at
    message = message_of(response)
    assert (message.role, message.status) == ("assistant", "completed")
    [part] = message.content
    assert part.type == "output_text" and part.annotations == [] and part.logprobs == []
    assert response.output_text == part.text != ""
    usage = response.usage
    assert usage and usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.output_tokens_details.reasoning_tokens == 0
    cost = (usage.input_tokens + 2 * usage.output_tokens) / 1e6
    assert usage.model_extra == {"estimated_cost": pytest.approx(cost)}
    Response.model_validate_json(response.to_json(), strict=True)


def test_the_prompt_is_that_of_chat_completions(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model="smollm2", max_tokens=1,
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": COUNT}],
    )  # fmt: skip
    assert chat.usage
    assert_read_the_same(create(client, instructions="Be brief."), chat.usage.prompt_tokens)


def test_the_requests_settings_are_told_again(client: openai.OpenAI) -> None:
    response = create(
        client, instructions="Be brief.", temperature=0.5, top_p=0.9, metadata={"a": "b"},
        user="u", safety_identifier="s", prompt_cache_key="k", tools=TOOLS, tool_choice="none",
        parallel_tool_calls=False, text={"verbosity": "low"}, max_tool_calls=3,
        reasoning={"effort": "low", "summary": "auto"}, service_tier="flex", store=False,
    )  # fmt: skip
    assert (response.instructions, response.temperature, response.top_p) == ("Be brief.", 0.5, 0.9)
    assert (response.user, response.safety_identifier) == ("u", "s")
    assert (response.prompt_cache_key, response.service_tier) == ("k", "default")
    assert response.metadata == {"a": "b"} and response.max_output_tokens == 8
    assert response.tool_choice == "none" and response.parallel_tool_calls is False
    assert [tool.to_dict() for tool in response.tools] == [
        WEATHER, {**TIME, "description": None},
    ]  # fmt: skip
    assert response.text and response.text.to_dict() == {
        "format": {"type": "text"}, "verbosity": "low",
    }  # fmt: skip
    assert response.reasoning and response.reasoning.effort == "low"
    assert response.truncation == "disabled" and response.max_tool_calls == 3
    defaults = create(client)
    assert defaults.tool_choice == "auto" and defaults.parallel_tool_calls
    assert defaults.text and defaults.text.verbosity == "medium" and defaults.tools == []


def test_every_prefix_serves_it(server: LiveServer) -> None:
    for prefix in ("/v1", "/v1/openai", "/inference-api/openai/v1"):
        body = {"model": "smollm2", "input": "Hi", "max_output_tokens": 1, "frobnicate": 1}
        reply = server.post(f"{prefix}/responses", body)
        assert reply.status_code == 200
        assert reply.headers["x-localinfra-ignored"] == "frobnicate"
        path = f"{server.url}{prefix}/responses/{reply.json()['id']}"
        assert httpx2.get(path).json() == reply.json()


def test_max_output_tokens_makes_it_incomplete(client: openai.OpenAI) -> None:
    response = create(client, max_output_tokens=5)
    assert response.status == "incomplete" and response.completed_at is None
    assert response.incomplete_details
    assert response.incomplete_details.reason == "max_output_tokens"
    assert message_of(response).status == "incomplete"
    assert response.usage and response.usage.output_tokens == 5


def test_logprobs_come_where_they_are_included(client: openai.OpenAI) -> None:
    response = create(client, include=["message.output_text.logprobs"], top_logprobs=3)
    part = message_of(response).content[0]
    assert part.type == "output_text" and part.logprobs and response.top_logprobs == 3
    assert "".join(entry.token for entry in part.logprobs) == part.text
    for entry in part.logprobs:
        assert len(entry.top_logprobs) == 3 and entry.logprob == entry.top_logprobs[0].logprob
        assert bytes(entry.bytes).decode() == entry.token


def test_a_seed_gives_the_same_text_again(client: openai.OpenAI) -> None:
    def text(seed: int) -> str:
        fields: Any = {"temperature": 1.2, "extra_body": {"seed": seed}}
        return create(client, max_output_tokens=6, **fields).output_text

    assert [text(seed) for seed in range(4)] == [text(seed) for seed in range(4)]
    assert len({text(seed) for seed in range(4)}) > 1


def test_a_last_message_of_the_assistant_is_continued(client: openai.OpenAI) -> None:
    begun = [{"role": "user", "content": COUNT}, {"role": "assistant", "content": "a b c d e f"}]
    assert create(client, begun).output_text.startswith(" g h")


def test_reasoning_is_an_item_before_the_message(client: openai.OpenAI) -> None:
    response = create(client, "Hi", model="thinker", max_output_tokens=12)
    [reasoning] = response.output
    assert isinstance(reasoning, ResponseReasoningItem) and reasoning.status == "incomplete"
    assert reasoning.summary == [] and reasoning.content and reasoning.content[0].text
    usage = response.usage
    assert usage and 0 < usage.output_tokens_details.reasoning_tokens <= usage.output_tokens
    plain = create(
        client, "Hi", model="thinker",
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    )  # fmt: skip
    assert plain.usage and plain.usage.output_tokens_details.reasoning_tokens == 0
    assert message_of(plain) and len(plain.output) == 1


# --- answers of a given form ----------------------------------------------------------------------


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=12)
    age: int = pydantic.Field(ge=0, le=120)


def test_pydantic_models_through_parse(client: openai.OpenAI) -> None:
    response = client.responses.parse(
        model="smollm2", input="Describe Kermit the frog.", text_format=Person,
        max_output_tokens=100,
    )  # fmt: skip
    assert isinstance(response.output_parsed, Person)
    assert response.text and response.text.format
    assert response.text.format.to_dict()["name"] == "Person"


def test_any_json_object(client: openai.OpenAI) -> None:
    text: Any = {"format": {"type": "json_object"}}
    response = create(client, 'Reply with {"a": 1}.', text=text, max_output_tokens=200)
    assert response.output_text.startswith("{")
    if response.status == "completed":
        assert isinstance(json.loads(response.output_text), dict)


# --- tools ----------------------------------------------------------------------------------------


def test_required_calls_are_valid(client: openai.OpenAI) -> None:
    for seed in range(3):
        response = create(
            client, "What is the weather in Paris?", tools=TOOLS, **CALLED, temperature=1,
            max_output_tokens=200, extra_body={"seed": seed},
        )  # fmt: skip
        assert response.status == "completed"
        [call] = response.output
        assert isinstance(call, ResponseFunctionToolCall) and call.status == "completed"
        assert call.id and call.id.startswith("fc_") and call.call_id.startswith("call_")
        schema = PARAMETERS if call.name == "get_weather" else {"maxProperties": 0}
        jsonschema.validate(json.loads(call.arguments), schema)


@pytest.mark.parametrize("name", ["get_weather", "now"])
def test_a_named_function_is_called(client: openai.OpenAI, name: str) -> None:
    choice: Any = {"type": "function", "name": name}
    response = create(client, "Hi", tools=TOOLS, tool_choice=choice, max_output_tokens=200)
    [call] = calls_of(response)
    assert call.name == name
    assert response.to_dict()["tool_choice"] == choice


def test_a_pydantic_tool_is_parsed(client: openai.OpenAI) -> None:
    response = client.responses.parse(
        model="smollm2", input="Kermit is 65.", max_output_tokens=200,
        tools=[openai.pydantic_function_tool(Person)["function"] | {"type": "function"}],  # type: ignore[list-item, operator, typeddict-item]
        tool_choice="required", parallel_tool_calls=False,
    )  # fmt: skip
    [call] = response.output
    assert call.type == "function_call" and call.name == "Person"
    Person.model_validate(call.parsed_arguments)


def test_a_call_that_is_cut_off_says_so_and_is_no_call_later(client: openai.OpenAI) -> None:
    response = create(client, tools=[WEATHER], tool_choice="required", max_output_tokens=22)
    assert response.status == "incomplete"
    [call] = calls_of(response)
    assert call.status == "incomplete"
    next_one = create(client, "Say hello.", previous_response_id=response.id)
    assert next_one.usage
    by_hand = [{"role": "user", "content": COUNT}, {"role": "user", "content": "Say hello."}]
    assert_read_the_same(create(client, by_hand), next_one.usage.input_tokens)


def test_calls_and_outputs_go_back_with_the_clients_own_items(client: openai.OpenAI) -> None:
    conversation: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    first = create(
        client, conversation, tools=[WEATHER], **CALLED, max_output_tokens=200, store=False
    )
    [call] = calls_of(first)
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "21 C, sunny"}
    function = {"name": call.name, "arguments": call.arguments}
    chat = client.chat.completions.create(
        model="smollm2", max_tokens=1,
        messages=[
            *conversation,
            {"role": "assistant", "tool_calls": [
                {"type": "function", "id": call.call_id, "function": function}  # type: ignore[list-item, typeddict-item]
            ]},
            {"role": "tool", "tool_call_id": call.call_id, "content": "21 C, sunny"},
        ],
    )  # fmt: skip
    assert chat.usage
    second = create(client, [*conversation, *first.output, output])
    assert_read_the_same(second, chat.usage.prompt_tokens)


# --- streams --------------------------------------------------------------------------------------

COMMAS = {"logit_bias": {"28": 100}}
PARIS: Any = {
    "type": "function", "name": "weather", "strict": True,
    "parameters": {"properties": {"city": {"enum": ["Paris"]}}, "required": ["city"]},
}  # fmt: skip

# Requests of which nothing is left to chance.
STREAMED: list[dict[str, Any]] = [
    {"text": HELLO, "max_output_tokens": 40},
    {"text": HELLO, "max_output_tokens": 2},
    {"max_output_tokens": 0},
    {"max_output_tokens": 9, "extra_body": COMMAS},
    {"max_output_tokens": 9, "extra_body": COMMAS, "include": ["message.output_text.logprobs"]},
    {"max_output_tokens": 9, "extra_body": COMMAS, "model": "thinker"},
    {"max_output_tokens": 60, "tools": [PARIS], **CALLED},
    {"max_output_tokens": 15, "tools": [PARIS], **CALLED},
    {"max_output_tokens": 0, "tools": [PARIS], **CALLED},
]


def without_ids(value: Any) -> Any:
    """What two answers to the same request have in common."""
    own = {"id", "call_id", "created_at", "completed_at", "input_tokens_details", "logprobs"}
    if isinstance(value, dict):
        return {key: without_ids(item) for key, item in value.items() if key not in own}
    return [without_ids(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("fields", STREAMED)
def test_a_stream_builds_the_response_that_is_answered_without(
    client: openai.OpenAI, fields: dict[str, Any]
) -> None:
    asked = {"model": "smollm2", "input": COUNT, "temperature": 0, **fields}
    whole = client.responses.create(**asked)
    events: list[Any] = list(client.responses.create(**asked, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[0].response.status == "in_progress" and events[0].response.output == []
    last = events[-1]
    assert last.type == f"response.{last.response.status}"
    assert without_ids(last.response.to_dict()) == without_ids(whole.to_dict())
    assert [event.item for event in told(events, "output_item.done")] == last.response.output
    for at, item in enumerate(last.response.output):
        own = [event for event in events if getattr(event, "output_index", None) == at]
        said = "".join(event.delta for event in own if event.type.endswith(".delta"))
        assert said == (item.arguments if item.type == "function_call" else item.content[0].text)
        assert own[0].type == "response.output_item.added" and own[0].item.id == item.id


def test_events_have_names_and_no_end_mark(server: LiveServer) -> None:
    body = {"model": "smollm2", "input": COUNT, "max_output_tokens": 3, "stream": True}
    text = server.post("/v1/responses", body).text
    assert text.endswith("\n\n") and "[DONE]" not in text
    for event in text.strip().split("\n\n"):
        name, data = event.split("\n")
        assert name == "event: " + json.loads(data.removeprefix("data: "))["type"]


def test_the_clients_own_accumulator_reads_the_stream(client: openai.OpenAI) -> None:
    with client.responses.stream(
        model="smollm2", input="Describe Kermit the frog.", text_format=Person,
        max_output_tokens=100, temperature=0,
    ) as stream:  # fmt: skip
        events: list[Any] = list(stream)
    snapshots = [event.snapshot for event in told(events, "output_text.delta")]
    final = stream.get_final_response()
    assert snapshots[-1] == final.output_text and len(snapshots) > 2
    assert isinstance(final.output_parsed, Person)
    with client.responses.stream(
        model="smollm2", input="Weather in Paris?", tools=[WEATHER], tool_choice="required",
        parallel_tool_calls=False, max_output_tokens=200,
    ) as calling:  # fmt: skip
        [*_, last] = told(list(calling), "function_call_arguments.delta")
    [call] = calling.get_final_response().output
    assert call.type == "function_call" and call.arguments == last.snapshot
    assert set(call.parsed_arguments) == {"city", "unit"}  # type: ignore[call-overload]


def test_streamed_logprobs_add_up_to_the_text(client: openai.OpenAI) -> None:
    events: list[Any] = list(
        client.responses.create(
            model="smollm2", input=COUNT, max_output_tokens=8, stream=True,
            include=["message.output_text.logprobs"],
        )
    )  # fmt: skip
    [done] = told(events, "output_text.done")
    tokens = [entry.token for event in told(events, "output_text.delta")
              for entry in event.logprobs]  # fmt: skip
    assert "".join(tokens) == done.text and len(done.logprobs) == 8


def test_a_failure_amid_a_stream_is_a_failed_response(
    client: openai.OpenAI, server: LiveServer
) -> None:
    """A bias against all that the form allows is met while the answer is under way."""
    [token] = asyncio.run(server.runtime.loaded_text_models()[SMOLLM2].text_prompt("7"))
    text: Any = {"format": {"type": "json_schema", "name": "x", "schema": {"enum": [7]}}}
    events: list[Any] = list(
        client.responses.create(
            model="smollm2", input="Hi", text=text, stream=True,
            extra_body={"logit_bias": {str(token): -100}},
        )
    )  # fmt: skip
    assert events[-1].type == "response.failed"
    failed = events[-1].response
    assert failed.status == "failed" and "logit_bias" in failed.error.message
    assert [event.sequence_number for event in events] == list(range(len(events)))
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(failed.id)
    server.wait_until_idle()


def test_a_client_that_leaves_frees_its_place_and_keeps_nothing(
    client: openai.OpenAI, server: LiveServer
) -> None:
    stream = client.responses.create(
        model="smollm2", input="Tell a long story.", max_output_tokens=1500, stream=True,
        extra_body={"logit_bias": {"2": -100}},
    )  # fmt: skip
    first: Any = next(iter(stream))
    server.wait_until(lambda stats: stats.num_running > 0)
    stream.close()
    server.wait_until_idle()
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.response.id)


# --- kept responses -------------------------------------------------------------------------------


def test_a_response_goes_on_from_the_previous_one(client: openai.OpenAI) -> None:
    first = create(client, "My name is Kermit.", instructions="Be brief.", max_output_tokens=20)
    asked = "What is my name?"
    second = create(client, asked, previous_response_id=first.id, max_output_tokens=20)
    assert second.previous_response_id == first.id
    sent: list[Any] = [
        {"role": "user", "content": "My name is Kermit."},
        *first.output,
        {"role": "user", "content": asked},
    ]
    assert second.usage
    by_hand = create(client, sent)  # without the first one's instructions
    assert_read_the_same(by_hand, second.usage.input_tokens)
    third = create(client, "And who are you?", previous_response_id=second.id)
    more: list[Any] = [*sent, *second.output, {"role": "user", "content": "And who are you?"}]
    assert third.usage
    assert_read_the_same(create(client, more), third.usage.input_tokens)


def test_an_output_answers_the_call_of_the_previous_response(client: openai.OpenAI) -> None:
    asked = "What is the weather in Paris?"
    first = create(client, asked, tools=[WEATHER], **CALLED, max_output_tokens=200)
    [call] = calls_of(first)
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "21 C"}
    second = create(client, [output], previous_response_id=first.id)
    assert second.usage
    by_hand: list[Any] = [{"role": "user", "content": asked}, *first.output, output]
    assert_read_the_same(create(client, by_hand), second.usage.input_tokens)
    with pytest.raises(openai.BadRequestError, match=call.call_id) as caught:
        create(client, [output])
    assert caught.value.param == "input[0].call_id"


def test_what_was_cut_goes_on_where_it_ended(client: openai.OpenAI) -> None:
    first = create(client, max_output_tokens=6)
    second = create(client, [], previous_response_id=first.id, max_output_tokens=6)
    begun = [{"role": "user", "content": COUNT},
             {"role": "assistant", "content": first.output_text}]  # fmt: skip
    assert second.usage
    assert_read_the_same(create(client, begun), second.usage.input_tokens)
    third = create(client, [], previous_response_id=second.id)
    begun[1]["content"] += second.output_text
    assert third.usage
    assert_read_the_same(create(client, begun), third.usage.input_tokens)


def test_a_reference_stands_for_an_item_put_out_before(client: openai.OpenAI) -> None:
    first = create(client)
    asked: Any = [{"role": "user", "content": COUNT}]
    rest: Any = [{"role": "user", "content": "Go on."}]
    reference: Any = {"type": "item_reference", "id": message_of(first).id}
    by_id = create(client, [*asked, reference, *rest])
    by_hand = create(client, [*asked, *first.output, *rest])
    assert by_id.usage
    assert_read_the_same(by_hand, by_id.usage.input_tokens)


def test_a_streamed_response_is_kept_too(client: openai.OpenAI) -> None:
    events: list[Any] = list(
        client.responses.create(model="smollm2", input=COUNT, max_output_tokens=4, stream=True)
    )
    final = events[-1].response
    assert client.responses.retrieve(final.id) == final


def test_responses_are_retrieved_and_deleted(client: openai.OpenAI) -> None:
    response = create(client)
    assert client.responses.retrieve(response.id) == response
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.retrieve(response.id)
    assert caught.value.code == "response_not_found"
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(response.id)


def test_store_false_keeps_nothing(client: openai.OpenAI) -> None:
    response = create(client, store=False)
    assert response.to_dict()["store"] is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.NotFoundError, match="store: false") as caught:
        create(client, previous_response_id=response.id)
    assert caught.value.param == "previous_response_id"
    assert caught.value.code == "previous_response_not_found"


def test_input_items_are_all_that_it_was_made_from(client: openai.OpenAI) -> None:
    first = create(client, "One")
    second = create(client, [{"role": "user", "content": "Two"}], previous_response_id=first.id)
    items: list[Any] = list(client.responses.input_items.list(second.id, order="asc", limit=2))
    assert [(item.role, item.content[0].text) for item in items] == [
        ("user", "One"), ("assistant", first.output_text), ("user", "Two"),
    ]  # fmt: skip
    assert items[1].id == message_of(first).id


def test_input_tokens_are_counted_as_they_would_be_read(client: openai.OpenAI) -> None:
    asked: Any = {"model": "smollm2", "input": COUNT, "instructions": "Be brief.", "tools": TOOLS}
    counted = client.responses.input_tokens.count(**asked)
    assert counted.object == "response.input_tokens"
    response = client.responses.create(**asked, max_output_tokens=1)
    assert response.usage and counted.input_tokens == response.usage.input_tokens


# --- wrong requests -------------------------------------------------------------------------------

IMAGE = {"type": "input_image", "image_url": "https://example.org/a.png"}
SCHEMA = {"type": "json_schema", "name": "x"}

# body changes → status, param, code
ERRORS: list[tuple[dict[str, Any], int, str | None, str]] = [
    ({"model": "gpt-4o"}, 404, "model", "model_not_found"),
    ({"model": "absent"}, 503, "model", "model_unavailable"),
    ({"model": "vectors"}, 400, "model", "invalid_value"),
    ({"model": None}, 400, "model", "invalid_value"),
    ({"input": None}, 400, "input", "invalid_value"),
    ({"input": []}, 400, "input", "invalid_value"),
    ({"input": [{"type": "reasoning", "id": "r", "summary": []}]}, 400, "input", "invalid_value"),
    ({"input": 5}, 400, "input", "invalid_value"),
    ({"input": [{"role": "user", "content": "x"}] * 10_001}, 400, "input", "invalid_value"),
    ({"input": "word " * 3000}, 400, "input", "context_length_exceeded"),
    ({"input": "a" * 4_000_000}, 400, "input", "context_length_exceeded"),
    ({"input": [{"role": "robot", "content": "x"}]}, 400, "input[0].role", "invalid_value"),
    (
        {"input": [{"role": "user", "content": [IMAGE]}]},
        400, "input[0].content[0]", "unsupported_parameter",
    ),
    ({"input": [{"type": "mcp_call", "id": "m"}]}, 400, "input[0].type", "unsupported_parameter"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, 404, "input[0].id", "not_found"),
    (
        {"previous_response_id": "resp_1"},
        404, "previous_response_id", "previous_response_not_found",
    ),
    ({"max_output_tokens": -1}, 400, "max_output_tokens", "invalid_value"),
    ({"temperature": 2.1}, 400, "temperature", "invalid_value"),
    ({"top_p": 0}, 400, "top_p", "invalid_value"),
    ({"top_logprobs": 21}, 400, "top_logprobs", "invalid_value"),
    ({"seed": -1}, 400, "seed", "invalid_value"),
    ({"stream": "yes"}, 400, "stream", "invalid_value"),
    ({"tools": [{"type": "web_search"}]}, 400, "tools[0].type", "unsupported_parameter"),
    ({"tools": [TIME, {"type": "mcp", "server_label": "x"}]}, 400, "tools[1].type",
     "unsupported_parameter"),
    ({"tools": [{"type": "function"}]}, 400, "tools[0].name", "invalid_value"),
    ({"tools": [{"type": "function", "name": "a b"}]}, 400, "tools[0].name", "invalid_value"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools[0].name",
     "invalid_value"),
    ({"tools": [TIME, TIME]}, 400, "tools", "invalid_value"),
    (
        {"tools": [{**WEATHER, "parameters": {"properties": {"a": {"not": {}}}}}]},
        400, "tools[0].parameters.properties.a.not", "unsupported_parameter",
    ),
    ({"tool_choice": "required"}, 400, "tool_choice", "invalid_value"),
    ({"tools": TOOLS, "tool_choice": "sometimes"}, 400, "tool_choice", "invalid_value"),
    (
        {"tools": TOOLS, "tool_choice": {"type": "function", "name": "x"}},
        400, "tool_choice", "invalid_value",
    ),
    ({"tools": TOOLS, "tool_choice": {"type": "function"}}, 400, "tool_choice", "invalid_value"),
    (
        {"tools": TOOLS, "tool_choice": {"type": "web_search_preview"}},
        400, "tool_choice.type", "unsupported_parameter",
    ),
    (
        {"tools": TOOLS, "tool_choice": "required", "text": {"format": {"type": "json_object"}}},
        400, "tool_choice", "invalid_value",
    ),
    ({"text": {"format": {"type": "yaml"}}}, 400, "text.format.type", "unsupported_parameter"),
    ({"text": {"format": SCHEMA}}, 400, "text.format.schema", "invalid_value"),
    (
        {"text": {"format": {**SCHEMA, "schema": {"not": {}}}}},
        400, "text.format.schema.not", "unsupported_parameter",
    ),
    ({"text": {"verbosity": "loud"}}, 400, "text.verbosity", "invalid_value"),
    ({"reasoning": {"summary": "long"}}, 400, "reasoning.summary", "invalid_value"),
    ({"chat_template_kwargs": {"messages": 1}}, 400, "chat_template_kwargs", "invalid_value"),
    ({"include": ["web_search_call.results"]}, 400, "include[0]", "unsupported_parameter"),
    ({"metadata": {"a": "b" * 513}}, 400, "metadata[...]", "invalid_value"),
    ({"metadata": {"a": 1}}, 400, "metadata[...]", "invalid_value"),
    ({"background": True}, 400, "background", "unsupported_parameter"),
    ({"truncation": "auto"}, 400, "truncation", "unsupported_parameter"),
    ({"conversation": "conv_1"}, 400, "conversation", "unsupported_parameter"),
    ({"prompt": {"id": "pmpt_1"}}, 400, "prompt", "unsupported_parameter"),
    ({"moderation": {"model": "x"}}, 400, "moderation", "unsupported_parameter"),
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("change", "status", "param", "code"), ERRORS)
def test_a_wrong_request_is_told_what_is_wrong(
    server: LiveServer,
    change: dict[str, Any],
    status: int,
    param: str | None,
    code: str,
    stream: bool,
) -> None:
    body = {"model": "smollm2", "input": "Hi", "max_output_tokens": 1, "stream": stream, **change}
    reply = server.post("/v1/responses", body)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (status, param, code), error
    assert error["message"] and reply.headers["x-request-id"]
