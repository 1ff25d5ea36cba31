"""Streams of /v1/responses with openai's client."""

import json
from typing import Any

import openai
import pytest
from echo import END, EchoServer
from responding import CALLED, COUNT, HELLO, WEATHER, Person

COMMAS = {"logit_bias": {str(ord(",")): 100}}
PARIS: Any = {
    "type": "function", "name": "weather", "strict": True,
    "parameters": {"properties": {"city": {"enum": ["Paris"]}}, "required": ["city"]},
}  # fmt: skip

# Requests with deterministic answers.
STREAMED: list[dict[str, Any]] = [
    {"text": HELLO, "max_output_tokens": 40},
    {"text": HELLO, "max_output_tokens": 2},
    {"max_output_tokens": 0},
    {"max_output_tokens": 9, "extra_body": COMMAS},
    {"max_output_tokens": 9, "extra_body": COMMAS, "include": ["message.output_text.logprobs"]},
    {"max_output_tokens": 9, "extra_body": COMMAS, "model": "thinker"},
    {"max_output_tokens": 200, "tools": [PARIS], **CALLED},
    {"max_output_tokens": 50, "tools": [PARIS], **CALLED},
    {"max_output_tokens": 0, "tools": [PARIS], **CALLED},
]


def told(events: list[Any], kind: str) -> list[Any]:
    return [event for event in events if event.type == f"response.{kind}"]


def without_ids(value: Any) -> Any:
    """The parts that two answers to the same request share."""
    own = {"id", "call_id", "created_at", "completed_at", "input_tokens_details", "logprobs"}
    if isinstance(value, dict):
        return {key: without_ids(item) for key, item in value.items() if key not in own}
    return [without_ids(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("fields", STREAMED)
def test_a_stream_adds_up_to_the_whole_response(
    client: openai.OpenAI, fields: dict[str, Any]
) -> None:
    asked = {"model": "echo", "input": COUNT, "temperature": 0, **fields}
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


def test_events_have_names_and_no_end_mark(server: EchoServer) -> None:
    body = {"model": "echo", "input": COUNT, "max_output_tokens": 3, "stream": True}
    text = server.post("/v1/responses", body).text
    assert text.endswith("\n\n") and "[DONE]" not in text
    for event in text.strip().split("\n\n"):
        name, data = event.split("\n")
        assert name == "event: " + json.loads(data.removeprefix("data: "))["type"]


def test_the_clients_own_accumulator_reads_the_stream(client: openai.OpenAI) -> None:
    with client.responses.stream(
        model="echo", input="Describe Kermit the frog.", text_format=Person,
        max_output_tokens=100, temperature=0,
    ) as stream:  # fmt: skip
        events: list[Any] = list(stream)
    snapshots = [event.snapshot for event in told(events, "output_text.delta")]
    final = stream.get_final_response()
    assert snapshots[-1] == final.output_text and len(snapshots) > 2
    assert isinstance(final.output_parsed, Person)
    with client.responses.stream(
        model="echo", input="Weather in Paris?", tools=[WEATHER], tool_choice="required",
        parallel_tool_calls=False, max_output_tokens=200,
    ) as calling:  # fmt: skip
        [*_, last] = told(list(calling), "function_call_arguments.delta")
    [call] = calling.get_final_response().output
    assert call.type == "function_call" and call.arguments == last.snapshot
    assert set(call.parsed_arguments) == {"city", "unit"}  # type: ignore[call-overload]


def test_streamed_logprobs_add_up_to_the_text(client: openai.OpenAI) -> None:
    events: list[Any] = list(
        client.responses.create(
            model="echo", input=COUNT, max_output_tokens=8, stream=True,
            include=["message.output_text.logprobs"],
        )
    )  # fmt: skip
    [done] = told(events, "output_text.done")
    tokens = [entry.token for event in told(events, "output_text.delta")
              for entry in event.logprobs]  # fmt: skip
    assert "".join(tokens) == done.text and len(done.logprobs) == 8


def test_a_failure_during_a_stream_is_a_failed_response(
    client: openai.OpenAI, server: EchoServer
) -> None:
    """A bias against all tokens that the format allows fails during the answer."""
    text: Any = {"format": {"type": "json_schema", "name": "x", "schema": {"enum": [7]}}}
    events: list[Any] = list(
        client.responses.create(
            model="echo", input="Hi", text=text, stream=True,
            extra_body={"logit_bias": {str(ord("7")): -100}},
        )
    )  # fmt: skip
    assert events[-1].type == "response.failed"
    failed = events[-1].response
    assert failed.status == "failed" and "logit_bias" in failed.error.message
    assert [event.sequence_number for event in events] == list(range(len(events)))
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(failed.id)
    server.wait_until_idle()


def test_a_client_that_leaves_frees_its_place_and_stores_nothing(
    client: openai.OpenAI, server: EchoServer
) -> None:
    with server.cut_short(1500):
        stream = client.responses.create(
            model="slow", input="Tell a long story.", max_output_tokens=1500, stream=True,
            extra_body={"logit_bias": {str(END): -100}},
        )  # fmt: skip
        first: Any = next(iter(stream))
        stream.close()
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.response.id)
