"""response_format: the output conforms, whatever the model would have generated."""

import json
import re
from typing import Annotated, Any, Literal

import jsonschema
import openai
import pydantic
import pytest
from echo import EchoServer
from forming import MESSAGES, PERSON, PERSON_FORMAT, answer


@pytest.mark.parametrize("kind", ["json", "json_object"])
def test_any_json_object(client: openai.OpenAI, kind: str) -> None:
    form: Any = {"type": kind}
    reply = client.chat.completions.create(
        model="echo",
        messages=[{"role": "user", "content": 'Reply with {"a": 1} and nothing else.'}],
        response_format=form,
        temperature=0,
        max_tokens=400,
    )
    text = reply.choices[0].message.content or ""
    assert text.startswith("{")
    if reply.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


def test_pydantic_models_through_parse(client: openai.OpenAI) -> None:
    class Step(pydantic.BaseModel):
        kind: Literal["add", "multiply"]
        by: int = pydantic.Field(ge=0, le=99)

    class Plan(pydantic.BaseModel):
        steps: list[Step] = pydantic.Field(min_length=1, max_length=2)
        is_done: bool

    reply = client.chat.completions.parse(
        model="echo", messages=MESSAGES, response_format=Plan, temperature=1, max_tokens=200
    )
    plan = reply.choices[0].message.parsed
    assert isinstance(plan, Plan) and 1 <= len(plan.steps) <= 2


def test_a_discriminated_union_through_parse(client: openai.OpenAI) -> None:
    class Leaf(pydantic.BaseModel):
        kind: Literal["leaf"] = "leaf"
        value: int = pydantic.Field(ge=0, le=9)

    class Pair(pydantic.BaseModel):
        kind: Literal["pair"]
        left: Annotated[Leaf | None, pydantic.Field()]

    class Tree(pydantic.BaseModel):
        root: Annotated[Leaf | Pair, pydantic.Field(discriminator="kind")]

    assert "oneOf" in str(Tree.model_json_schema())
    for n in range(3):
        reply = client.chat.completions.with_raw_response.parse(
            model="echo", messages=MESSAGES, response_format=Tree, seed=n, max_tokens=200
        )
        assert "x-localinfra-ignored" not in reply.headers
        assert isinstance(reply.parse().choices[0].message.parsed, Tree)
        schema: Any = {"type": "json_object", "schema": Tree.model_json_schema()}
        Tree.model_validate_json(answer(client, schema, seed=n))


def test_alternatives_that_may_both_be_valid_are_reported(server: EchoServer) -> None:
    schema = {"oneOf": [{"type": "integer"}, {"type": "number"}]}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    body = {"model": "echo", "messages": MESSAGES, "max_tokens": 2, "response_format": wanted}
    reply = server.post("/v1/chat/completions", body)
    assert reply.status_code == 200
    assert reply.headers["x-localinfra-ignored"] == "response_format.json_schema.schema.oneOf"


def test_a_regex(client: openai.OpenAI) -> None:
    text = answer(client, {"type": "regex", "regex": r"(red|green)/[0-9]{3}"}, temperature=2)
    assert re.fullmatch(r"(red|green)/[0-9]{3}", text)


@pytest.mark.parametrize(
    "grammar",
    [
        'start: WORD ("-" WORD){2}\nWORD: "ab" | "cd"',
        'root ::= word "-" word "-" word\nword ::= "ab" | "cd"',
        'root ::= start ("-" start){2}\nstart ::= ("a" "b"){1} | # or\n "cd"',
    ],
    ids=["lark", "gbnf", "gbnf with a rule named start"],
)
def test_a_grammar(client: openai.OpenAI, grammar: str) -> None:
    text = answer(client, {"type": "grammar", "grammar": grammar}, temperature=1)
    assert re.fullmatch(r"(ab|cd)-(ab|cd)-(ab|cd)", text)


def test_completions_take_a_format_too(client: openai.OpenAI) -> None:
    reply = client.completions.create(
        model="echo",
        prompt="The colour of grass is",
        max_tokens=20,
        extra_body={"response_format": {"type": "regex", "regex": " (green|blue)"}},
    )
    assert reply.choices[0].text in (" green", " blue")


def test_a_stream_gives_the_same_text(client: openai.OpenAI) -> None:
    fields: Any = {"temperature": 1, "seed": 7, "max_tokens": 300}
    whole = answer(client, PERSON_FORMAT, **fields)
    chunks = client.chat.completions.create(
        model="echo", messages=MESSAGES, response_format=PERSON_FORMAT, stream=True, **fields
    )
    parts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(parts) == whole and len(parts) > 5


def test_every_choice_conforms(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="echo", messages=MESSAGES, response_format=PERSON_FORMAT, n=4, max_tokens=300
    )
    texts = [choice.message.content or "" for choice in reply.choices]
    for text in texts:
        jsonschema.validate(json.loads(text), PERSON)
    assert len(set(texts)) > 1


def test_logprobs_are_of_every_token_and_of_the_raw_logits(client: openai.OpenAI) -> None:
    regex: Any = {"type": "regex", "regex": "xylophone-zebra"}
    reply = client.chat.completions.create(
        model="echo", messages=MESSAGES, response_format=regex, logprobs=True, top_logprobs=1
    )
    assert reply.choices[0].logprobs and reply.choices[0].logprobs.content
    entries = reply.choices[0].logprobs.content
    assert "".join(entry.token for entry in entries) == "xylophone-zebra"
    assert entries[0].logprob < entries[0].top_logprobs[0].logprob  # not the model's first choice


def test_stop_strings_and_max_tokens_still_end_the_text(client: openai.OpenAI) -> None:
    text = answer(client, {"type": "regex", "regex": "one two three four"}, stop="three")
    assert text == "one two "
    reply = client.chat.completions.create(
        model="echo", messages=MESSAGES, response_format=PERSON_FORMAT, max_tokens=5
    )
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage and reply.usage.completion_tokens == 5


def test_a_bias_against_all_allowed_tokens_is_the_clients_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="logit_bias"):
        answer(client, {"type": "regex", "regex": "7"}, logit_bias={str(ord("7")): -100})


@pytest.mark.parametrize(
    ("response_format", "param"),
    [
        ({"type": "yaml"}, "response_format.type"),
        ({"type": "json_schema"}, "response_format.json_schema.schema"),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}},
            "response_format.json_schema.schema.not",
        ),
        (
            {"type": "json_schema", "json_schema": {"schema": {"type": "strin"}}},
            "response_format.json_schema.schema",
        ),
        (
            {"type": "json_schema", "json_schema": {"schema": {"$ref": "#/$defs/none"}}},
            "response_format.json_schema.schema",
        ),
        (
            {"type": "json_object", "schema": {"items": {"format": {}}}},
            "response_format.schema.items.format",
        ),
        (
            {"type": "json_object", "schema": {"required": [["a"]]}},
            "response_format.schema.required",
        ),
        (
            {"type": "json_object", "schema": {"multipleOf": 9999991}},
            "response_format.schema.multipleOf",
        ),
        (
            {"type": "json_object", "schema": {"items": {"pattern": "^a(?!b)"}}},
            "response_format.schema.items.pattern",
        ),
        (
            {"type": "json_object", "schema": {"properties": {"a": {}}, "minProperties": 3}},
            "response_format.schema.minProperties",
        ),
        ({"type": "regex", "regex": "("}, "response_format.regex"),
        ({"type": "regex"}, "response_format.regex"),
        ({"type": "grammar", "grammar": "start: nothing"}, "response_format.grammar"),
        ({"type": "grammar", "grammar": "root ::= ("}, "response_format.grammar"),
    ],
)
def test_unenforceable_schemas_are_refused_with_their_path(
    client: openai.OpenAI, response_format: Any, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        answer(client, response_format)
    assert caught.value.param == param


def test_reasoning_is_apart_from_content(client: openai.OpenAI) -> None:
    request: Any = {"model": "thinker", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    message = client.chat.completions.create(**request).choices[0].message
    assert message.content == "" and message.reasoning_content
    chunks = client.chat.completions.create(**request, stream=True)
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert not any(delta.content for delta in deltas)
    assert any(getattr(delta, "reasoning_content", None) for delta in deltas)


def test_text_after_the_reasoning_is_content(client: openai.OpenAI) -> None:
    said: Any = [{"role": "user", "content": "Green, he is.</think>He is a frog."}]
    request: Any = {"model": "thinker", "messages": said, "temperature": 0}
    message = client.chat.completions.create(**request).choices[0].message
    assert message.content == "He is a frog."
    assert message.to_dict()["reasoning_content"] == "Green, he is."


def test_a_call_may_follow_content(client: openai.OpenAI) -> None:
    call = '<tool_call>\n{"name": "look", "arguments": {"at": "Kermit"}}\n</tool_call>'
    said: Any = [{"role": "user", "content": f"I look.\n{call}"}]
    parameters = {"type": "object", "properties": {"at": {"type": "string"}}}
    tool: Any = {"type": "function", "function": {"name": "look", "parameters": parameters}}
    [choice] = client.chat.completions.create(
        model="echo", messages=said, tools=[tool], temperature=0, max_tokens=200
    ).choices
    assert choice.finish_reason == "tool_calls" and choice.message.content == "I look."
    [made] = choice.message.tool_calls or []
    assert (made.function.name, made.function.arguments) == ("look", '{"at": "Kermit"}')  # type: ignore[union-attr]


def test_template_arguments_switch_reasoning_off(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="thinker",
        messages=MESSAGES,
        max_tokens=12,
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    )
    message = reply.choices[0].message
    assert message.content and not hasattr(message, "reasoning_content")


def test_hints_are_ignored_and_reported(server: EchoServer) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "format": "int64"}}}
    reply = server.post(
        "/v1/chat/completions",
        {
            "model": "echo",
            "messages": MESSAGES,
            "max_tokens": 2,
            "response_format": {"type": "json_object", "schema": schema},
        },
    )
    assert reply.status_code == 200
    assert reply.headers["x-localinfra-ignored"] == "response_format.schema.properties.n.format"


def test_nulls_in_a_schema_count_as_absent(client: openai.OpenAI) -> None:
    schema = {"type": "integer", "nullable": True, "minimum": 5, "maximum": 6, "format": None}
    texts = {answer(client, {"type": "json_object", "schema": schema}, seed=n) for n in range(3)}
    assert texts <= {"5", "6", "null"}
