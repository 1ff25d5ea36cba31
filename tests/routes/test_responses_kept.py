"""Responses that continue stored ones, with openai's client."""

from typing import Any

import openai
import pytest
from responding import (
    CALLED,
    COUNT,
    TOOLS,
    WEATHER,
    assert_read_the_same,
    calls_of,
    create,
    message_of,
)


def test_a_response_continues_the_previous_one(client: openai.OpenAI) -> None:
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


def test_a_text_that_was_cut_off_is_continued(client: openai.OpenAI) -> None:
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


def test_a_reference_stands_for_an_earlier_output_item(client: openai.OpenAI) -> None:
    first = create(client)
    asked: Any = [{"role": "user", "content": COUNT}]
    rest: Any = [{"role": "user", "content": "Go on."}]
    reference: Any = {"type": "item_reference", "id": message_of(first).id}
    by_id = create(client, [*asked, reference, *rest])
    by_hand = create(client, [*asked, *first.output, *rest])
    assert by_id.usage
    assert_read_the_same(by_hand, by_id.usage.input_tokens)


def test_a_streamed_response_is_stored_too(client: openai.OpenAI) -> None:
    events: list[Any] = list(
        client.responses.create(model="echo", input=COUNT, max_output_tokens=4, stream=True)
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


def test_store_false_stores_nothing(client: openai.OpenAI) -> None:
    response = create(client, store=False)
    assert response.to_dict()["store"] is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.NotFoundError, match="store: false") as caught:
        create(client, previous_response_id=response.id)
    assert caught.value.param == "previous_response_id"
    assert caught.value.code == "previous_response_not_found"


def test_input_items_are_the_whole_input(client: openai.OpenAI) -> None:
    first = create(client, "One")
    second = create(client, [{"role": "user", "content": "Two"}], previous_response_id=first.id)
    items: list[Any] = list(client.responses.input_items.list(second.id, order="asc", limit=2))
    assert [(item.role, item.content[0].text) for item in items] == [
        ("user", "One"), ("assistant", first.output_text), ("user", "Two"),
    ]  # fmt: skip
    assert items[1].id == message_of(first).id


def test_input_tokens_are_those_of_the_prompt(client: openai.OpenAI) -> None:
    asked: Any = {"model": "echo", "input": COUNT, "instructions": "Be brief.", "tools": TOOLS}
    counted = client.responses.input_tokens.count(**asked)
    assert counted.object == "response.input_tokens"
    response = client.responses.create(**asked, max_output_tokens=1)
    assert response.usage and counted.input_tokens == response.usage.input_tokens
