"""What tests of answers of a given form have in common."""

from typing import Any

import openai

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
    """A whole text of that form."""
    fields = {"model": "echo", "max_tokens": 300, **fields}
    reply = client.chat.completions.create(
        messages=MESSAGES, response_format=response_format, **fields
    )
    assert reply.choices[0].finish_reason == "stop"
    return reply.choices[0].message.content or ""
