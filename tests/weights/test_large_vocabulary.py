"""Constrained output over Gemma's 262,144 tokens: another vocabulary, another kind of tokenizer."""

import json
from typing import Any

import jsonschema
import openai
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 1, "maxLength": 20},
        "year": {"type": "integer", "minimum": 1900, "maximum": 2030},
        "genres": {"type": "array", "items": {"enum": ["drama", "comedy", "科幻"]}, "maxItems": 3},
        "rating": {"type": ["integer", "null"], "minimum": 0, "maximum": 10},
    },
    "required": ["title", "year", "genres", "rating"],
    "additionalProperties": False,
}


def complete(client: openai.OpenAI, response_format: Any, **fields: Any) -> list[str]:
    reply = client.completions.create(
        model="gemma",
        prompt="A film, as JSON:",
        max_tokens=200,
        extra_body={"response_format": response_format},
        **fields,
    )
    assert {choice.finish_reason for choice in reply.choices} == {"stop"}
    return [choice.text for choice in reply.choices]


@pytest.mark.parametrize("temperature", [0, 1, 2])
def test_answers_conform(gemma: openai.OpenAI, temperature: float) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "film", "schema": SCHEMA}}
    for text in complete(gemma, wanted, temperature=temperature, n=4, seed=5):
        jsonschema.validate(json.loads(text), SCHEMA)


def test_regexes_over_other_scripts(gemma: openai.OpenAI) -> None:
    [text] = complete(gemma, {"type": "regex", "regex": "(東京|大阪) 🎉{2}"}, temperature=1)
    assert text in ("東京 🎉🎉", "大阪 🎉🎉")
