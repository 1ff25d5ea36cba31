"""response_format on the real model: what comes out conforms, whatever the sampling."""

import json
from typing import Any

import jsonschema
import openai
import pytest
from forming import PERSON, PERSON_FORMAT, answer
from live import LiveServer

from localinfra.chat.partial import completed_object


@pytest.mark.parametrize("temperature", [0, 1, 2])
def test_an_answer_conforms_to_its_schema(client: openai.OpenAI, temperature: float) -> None:
    person = json.loads(
        answer(client, PERSON_FORMAT, model="smollm2", temperature=temperature, seed=1)
    )
    jsonschema.validate(person, PERSON)
    assert set(person) == {"name", "age", "colour", "friends"}


def test_forced_text_takes_few_steps(client: openai.OpenAI, server: LiveServer) -> None:
    sentence = "The quick brown fox jumps over the lazy dog, and nobody asks why."
    before = server.stats.num_steps
    regex = {"type": "regex", "regex": sentence.replace(".", r"\.")}
    assert answer(client, regex, model="smollm2") == sentence
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
