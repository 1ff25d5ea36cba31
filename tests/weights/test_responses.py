"""POST /v1/responses over SmolLM2: what depends on the model."""

import json

import jsonschema
import openai
from openai.types.responses import ResponseFunctionToolCall
from responding import CALLED, COUNT, PARAMETERS, TOOLS, Person, create


def test_a_last_message_of_the_assistant_is_continued(client: openai.OpenAI) -> None:
    begun = [{"role": "user", "content": COUNT}, {"role": "assistant", "content": "a b c d e f"}]
    assert create(client, begun, model="smollm2").output_text.startswith(" g h")


def test_pydantic_models_through_parse(client: openai.OpenAI) -> None:
    response = client.responses.parse(
        model="smollm2", input="Describe Kermit the frog.", text_format=Person,
        max_output_tokens=100,
    )  # fmt: skip
    assert isinstance(response.output_parsed, Person)


def test_required_calls_are_valid(client: openai.OpenAI) -> None:
    for seed in range(3):
        response = create(
            client, "What is the weather in Paris?", model="smollm2", tools=TOOLS, **CALLED,
            temperature=1, max_output_tokens=200, extra_body={"seed": seed},
        )  # fmt: skip
        [call] = response.output
        assert isinstance(call, ResponseFunctionToolCall) and call.status == "completed"
        schema = PARAMETERS if call.name == "get_weather" else {"maxProperties": 0}
        jsonschema.validate(json.loads(call.arguments), schema)
