"""POST /v1/responses with openai's client."""

import json
import re
from typing import Any

import jsonschema
import openai
import pytest
from echo import ECHO, EchoServer
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseReasoningItem
from responding import (
    CALLED,
    COUNT,
    HELLO,
    PARAMETERS,
    TIME,
    TOOLS,
    WEATHER,
    Person,
    assert_read_the_same,
    calls_of,
    create,
    message_of,
)


def test_a_response_has_openais_shape(client: openai.OpenAI) -> None:
    response = create(client, text=HELLO, max_output_tokens=40)
    assert (response.object, response.model) == ("response", ECHO)
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
        model="echo", max_tokens=1,
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": COUNT}],
    )  # fmt: skip
    assert chat.usage
    assert_read_the_same(create(client, instructions="Be brief."), chat.usage.prompt_tokens)


def test_the_requests_settings_are_repeated(client: openai.OpenAI) -> None:
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


def test_every_prefix_has_the_route(server: EchoServer) -> None:
    for prefix in ("/v1", "/v1/openai", "/inference-api/openai/v1"):
        body = {"model": "echo", "input": "Hi", "max_output_tokens": 1, "frobnicate": 1}
        reply = server.post(f"{prefix}/responses", body)
        assert reply.status_code == 200
        assert reply.headers["x-localinfra-ignored"] == "frobnicate"
        path = f"{server.url}{prefix}/responses/{reply.json()['id']}"
        assert server.client.get(path).json() == reply.json()


def test_max_output_tokens_makes_it_incomplete(client: openai.OpenAI) -> None:
    response = create(client, max_output_tokens=5)
    assert response.status == "incomplete" and response.completed_at is None
    assert response.incomplete_details
    assert response.incomplete_details.reason == "max_output_tokens"
    assert message_of(response).status == "incomplete"
    assert response.usage and response.usage.output_tokens == 5


def test_logprobs_are_sent_if_included(client: openai.OpenAI) -> None:
    response = create(client, include=["message.output_text.logprobs"], top_logprobs=3)
    part = message_of(response).content[0]
    assert part.type == "output_text" and part.logprobs and response.top_logprobs == 3
    assert "".join(entry.token for entry in part.logprobs) == part.text
    for entry in part.logprobs:
        assert len(entry.top_logprobs) == 3 and entry.logprob == entry.top_logprobs[0].logprob
        assert bytes(entry.bytes).decode() == entry.token


def test_the_same_seed_gives_the_same_text(client: openai.OpenAI) -> None:
    def text(seed: int) -> str:
        fields: Any = {"temperature": 1.2, "extra_body": {"seed": seed}}
        return create(client, max_output_tokens=6, **fields).output_text

    assert [text(seed) for seed in range(4)] == [text(seed) for seed in range(4)]
    assert len({text(seed) for seed in range(4)}) > 1


def test_a_last_message_of_the_assistant_is_continued(client: openai.OpenAI) -> None:
    begun = [{"role": "user", "content": COUNT}, {"role": "assistant", "content": "Repeat the"}]
    assert create(client, begun).output_text.startswith(" letters")


def test_reasoning_is_an_item_before_the_message(client: openai.OpenAI) -> None:
    response = create(client, model="thinker", max_output_tokens=12)
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


# Structured output.


def test_pydantic_models_through_parse(client: openai.OpenAI) -> None:
    response = client.responses.parse(
        model="echo", input="Describe Kermit the frog.", text_format=Person,
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


# Tools.


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
    person: Any = openai.pydantic_function_tool(Person)["function"]
    response = client.responses.parse(
        model="echo", input="Kermit is 65.", max_output_tokens=200,
        tools=[person | {"type": "function"}],
        tool_choice="required", parallel_tool_calls=False,
    )  # fmt: skip
    [call] = response.output
    assert call.type == "function_call" and call.name == "Person"
    Person.model_validate(call.parsed_arguments)


def test_a_call_that_is_cut_off_is_incomplete_and_later_dropped(client: openai.OpenAI) -> None:
    response = create(client, tools=[WEATHER], tool_choice="required", max_output_tokens=60)
    assert response.status == "incomplete"
    [call] = calls_of(response)
    assert call.status == "incomplete"
    next_one = create(client, "Say hello.", previous_response_id=response.id)
    assert next_one.usage
    by_hand = [{"role": "user", "content": COUNT}, {"role": "user", "content": "Say hello."}]
    assert_read_the_same(create(client, by_hand), next_one.usage.input_tokens)


def test_calls_and_outputs_can_be_sent_back_as_the_clients_items(client: openai.OpenAI) -> None:
    conversation: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    first = create(
        client, conversation, tools=[WEATHER], **CALLED, max_output_tokens=200, store=False
    )
    [call] = calls_of(first)
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "21 C, sunny"}
    function: Any = {"name": call.name, "arguments": call.arguments}
    chat = client.chat.completions.create(
        model="echo", max_tokens=1,
        messages=[
            *conversation,
            {"role": "assistant", "tool_calls": [
                {"type": "function", "id": call.call_id, "function": function}
            ]},
            {"role": "tool", "tool_call_id": call.call_id, "content": "21 C, sunny"},
        ],
    )  # fmt: skip
    assert chat.usage
    second = create(client, [*conversation, *first.output, output])
    assert_read_the_same(second, chat.usage.prompt_tokens)
