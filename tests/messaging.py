"""What tests of Anthropic's Messages API have in common: requests, and the parts of answers."""

import json
from typing import Any

import jsonschema

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


def wire(**fields: Any) -> dict[str, Any]:
    """A request as it is sent."""
    usual = {"model": "echo", "messages": RIVERS, "max_tokens": 40}
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


def check_call(block: Any) -> None:
    """A call of one of the two tools above, as its schema asks for it."""
    assert block.type == "tool_use" and block.id.startswith("toolu_")
    if block.name == "get_weather":
        jsonschema.validate(block.input, WEATHER["input_schema"])
    else:
        assert (block.name, block.input) == ("now", {})
