"""response_format on the real model: what comes out conforms, whatever the sampling."""

import json
from typing import Any, Literal

import jsonschema
import openai
import pydantic
import pytest
from live import LiveServer

from localinfra.chat.partial import completed_object

MESSAGES: Any = [{"role": "user", "content": "Describe Kermit the frog."}]
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "colour": {"enum": ["green", "blue"]},
        "friends": {"type": "array", "items": {"$ref": "#/$defs/friend"}, "maxItems": 2},
    },
    "required": ["name", "age", "colour", "friends"],
    "$defs": {
        "friend": {
            "type": "object",
            "properties": {"first": {"type": "string", "pattern": "^[A-Z][a-z]{1,5}$"}},
            "required": ["first"],
            "additionalProperties": False,
        }
    },
}
PERSON_FORMAT: Any = {
    "type": "json_schema",
    "json_schema": {"name": "person", "schema": PERSON, "strict": True},
}


def answer(client: openai.OpenAI, response_format: Any, **fields: Any) -> str:
    fields = {"max_tokens": 300, **fields}
    reply = client.chat.completions.create(
        model="smollm2", messages=MESSAGES, response_format=response_format, **fields
    )
    assert reply.choices[0].finish_reason == "stop"
    return reply.choices[0].message.content or ""


@pytest.mark.parametrize("temperature", [0, 1, 2])
def test_an_answer_conforms_to_its_schema(client: openai.OpenAI, temperature: float) -> None:
    person = json.loads(answer(client, PERSON_FORMAT, temperature=temperature, seed=1))
    jsonschema.validate(person, PERSON)
    assert set(person) == {"name", "age", "colour", "friends"}


def test_pydantic_models_through_parse(client: openai.OpenAI) -> None:
    class Step(pydantic.BaseModel):
        kind: Literal["add", "multiply"]
        by: int = pydantic.Field(ge=0, le=99)

    class Plan(pydantic.BaseModel):
        steps: list[Step] = pydantic.Field(min_length=1, max_length=2)
        is_done: bool

    reply = client.chat.completions.parse(
        model="smollm2", messages=MESSAGES, response_format=Plan, temperature=1, max_tokens=200
    )
    plan = reply.choices[0].message.parsed
    assert isinstance(plan, Plan) and 1 <= len(plan.steps) <= 2


def test_logprobs_are_of_every_token_and_of_the_raw_logits(client: openai.OpenAI) -> None:
    regex: Any = {"type": "regex", "regex": "xylophone-zebra"}
    reply = client.chat.completions.create(
        model="smollm2", messages=MESSAGES, response_format=regex, logprobs=True, top_logprobs=1
    )
    assert reply.choices[0].logprobs and reply.choices[0].logprobs.content
    entries = reply.choices[0].logprobs.content
    assert "".join(entry.token for entry in entries) == "xylophone-zebra"
    assert entries[0].logprob < entries[0].top_logprobs[0].logprob  # not what it wanted to say


def test_forced_text_takes_few_steps(client: openai.OpenAI, server: LiveServer) -> None:
    sentence = "The quick brown fox jumps over the lazy dog, and nobody asks why."
    before = server.stats.num_steps
    assert answer(client, {"type": "regex", "regex": sentence.replace(".", r"\.")}) == sentence
    assert server.stats.num_steps - before < 8


@pytest.mark.parametrize("seed", range(3))
def test_free_json_has_each_name_once_in_its_object(client: openai.OpenAI, seed: int) -> None:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), pairs
        return dict(pairs)

    reply = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "Write a person record in JSON."}],
        response_format={"type": "json_object"},
        temperature=seed / 2,
        seed=seed,
        max_tokens=400,
    )
    text = reply.choices[0].message.content or ""
    if reply.choices[0].finish_reason == "stop":
        json.loads(text, object_pairs_hook=unique)
    else:
        json.loads(completed_object(text), object_pairs_hook=unique)
