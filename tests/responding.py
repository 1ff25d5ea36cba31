"""What tests of the Responses API have in common: requests of openai's client and their parts."""

from typing import Any

import openai
import pydantic
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseOutputMessage

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


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=12)
    age: int = pydantic.Field(ge=0, le=120)


def create(client: openai.OpenAI, input: Any = COUNT, **fields: Any) -> Response:
    fields = {"model": "echo", "temperature": 0, "max_output_tokens": 8, **fields}
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
