"""response_format on the real model: what comes out conforms, whatever the sampling."""

import asyncio
import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

import httpx2
import jsonschema
import openai
import pydantic
import pytest
from live import SMOLLM2, LiveServer

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


@pytest.mark.parametrize("kind", ["json", "json_object"])
def test_any_json_object(client: openai.OpenAI, kind: str) -> None:
    form: Any = {"type": kind}
    reply = client.chat.completions.create(
        model="smollm2",
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
        model="smollm2", messages=MESSAGES, response_format=Plan, temperature=1, max_tokens=200
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
            model="smollm2", messages=MESSAGES, response_format=Tree, seed=n, max_tokens=200
        )
        assert "x-localinfra-ignored" not in reply.headers
        assert isinstance(reply.parse().choices[0].message.parsed, Tree)
        schema: Any = {"type": "json_object", "schema": Tree.model_json_schema()}
        Tree.model_validate_json(answer(client, schema, seed=n))


def test_choices_that_may_both_be_valid_are_named(server: LiveServer) -> None:
    schema = {"oneOf": [{"type": "integer"}, {"type": "number"}]}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    body = {"model": "smollm2", "messages": MESSAGES, "max_tokens": 2, "response_format": wanted}
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
        model="smollm2",
        prompt="The colour of grass is",
        max_tokens=20,
        extra_body={"response_format": {"type": "regex", "regex": " (green|blue)"}},
    )
    assert reply.choices[0].text in (" green", " blue")


def test_a_stream_gives_the_same_text(client: openai.OpenAI) -> None:
    fields: Any = {"temperature": 1, "seed": 7, "max_tokens": 300}
    whole = answer(client, PERSON_FORMAT, **fields)
    chunks = client.chat.completions.create(
        model="smollm2", messages=MESSAGES, response_format=PERSON_FORMAT, stream=True, **fields
    )
    parts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(parts) == whole and len(parts) > 5


def test_every_choice_conforms(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="smollm2", messages=MESSAGES, response_format=PERSON_FORMAT, n=4, max_tokens=300
    )
    texts = [choice.message.content or "" for choice in reply.choices]
    for text in texts:
        jsonschema.validate(json.loads(text), PERSON)
    assert len(set(texts)) > 1


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


def test_stop_strings_and_max_tokens_cut_as_ever(client: openai.OpenAI) -> None:
    text = answer(client, {"type": "regex", "regex": "one two three four"}, stop="three")
    assert text == "one two "
    reply = client.chat.completions.create(
        model="smollm2", messages=MESSAGES, response_format=PERSON_FORMAT, max_tokens=5
    )
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage and reply.usage.completion_tokens == 5


def test_a_bias_against_all_that_is_allowed_is_the_clients_error(
    client: openai.OpenAI, server: LiveServer
) -> None:
    [token] = asyncio.run(server.runtime.loaded_text_models()[SMOLLM2].text_prompt("7"))
    with pytest.raises(openai.BadRequestError, match="logit_bias"):
        answer(client, {"type": "regex", "regex": "7"}, logit_bias={str(token): -100})


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
def test_what_can_not_be_enforced_is_refused_with_its_path(
    client: openai.OpenAI, response_format: Any, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        answer(client, response_format)
    assert caught.value.param == param


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def chain(rule: str, count: int) -> str:
    rules = [rule.format(i, i + 1) for i in range(count)]
    return "\n".join(["start: T0", *rules, f'T{count}: "a"', f'r{count}: "a"'])


def referring(count: int, wrap: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    definitions = {f"a{i}": wrap({"$ref": f"#/$defs/a{i + 1}"}) for i in range(count)}
    schema = {"$ref": "#/$defs/a0", "$defs": {**definitions, f"a{count}": {"type": "null"}}}
    return {"type": "json_object", "schema": schema}


BOMBS: dict[str, Any] = {
    "deep schema": {"type": "json_object", "schema": deep(90)},
    "deeper schema": {"type": "json_object", "schema": deep(400)},
    "cycle": {
        "type": "json_object",
        "schema": {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        },
    },
    "long string": {"type": "json_object", "schema": {"type": "string", "maxLength": 10**9}},
    "long string at least": {
        "type": "json_object",
        "schema": {"type": "string", "minLength": 10**9},
    },
    "many items": {
        "type": "json_object",
        "schema": {"type": "array", "items": {"type": "null"}, "minItems": 10**9},
    },
    "many required": {
        "type": "json_object",
        "schema": {
            "type": "object",
            "properties": {f"p{i}": {"type": "string"} for i in range(4000)},
        },
    },
    "large enum": {"type": "json_object", "schema": {"enum": [f"v{i}" for i in range(100_000)]}},
    "large schema": {"type": "json_object", "schema": {"description": "x" * 2**20}},
    "exponential regex": {"type": "regex", "regex": "(((a|aa)*)*)*" * 20 + "b"},
    "counted regex": {"type": "regex", "regex": "((a{1,100}){1,100}){1,100}"},
    "blind regex": {"type": "regex", "regex": ".*a.{1000}b"},
    "deep lark": {"type": "grammar", "grammar": "start: " + "(" * 60_000 + '"a"' + ")" * 60_000},
    "deep gbnf": {"type": "grammar", "grammar": "root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000},
    "chain": {
        "type": "grammar",
        "grammar": "start: r0\n"
        + "\n".join(f"r{i}: r{i + 1}" for i in range(9000))
        + '\nr9000: "a"',
    },
    "endless": {"type": "grammar", "grammar": "start: start start |"},
    "chain of terminals": {"type": "grammar", "grammar": chain('T{}: "x" T{}', 1500)},
    "gbnf chain": {"type": "grammar", "grammar": "root ::= r0\n" + chain("r{} ::= r{}", 900)},
    "chain of references": referring(3000, lambda inner: inner),
    "chain of arrays": referring(3000, lambda inner: {"type": "array", "items": inner}),
    "chain of both": referring(1900, lambda inner: {"allOf": [{"type": "null"}, inner]}),
    "long regex": {"type": "regex", "regex": "a?" * 50_000},
    "long pattern": {"type": "json_object", "schema": {"type": "string", "pattern": "a?" * 50_000}},
    "many patterns": {
        "type": "json_object",
        "schema": {"anyOf": [{"pattern": f"{i}" + "a?" * 900} for i in range(200)]},
    },
    "long terminal": {"type": "grammar", "grammar": "start: T\nT: " + '"a"? ' * 5000},
    "pattern": {"type": "json_object", "schema": {"type": "string", "pattern": "(a+)+(b+)+$"}},
    "references into a list": {
        "type": "json_object",
        "schema": {"anyOf": [{"$ref": f"#/anyOf/{n}"} for n in range(1, 3000)] + [True]},
    },
    "required names": {
        "type": "json_object",
        "schema": {"type": "object", "required": [f"p{n}" for n in range(30_000)]},
    },
    "almost too many required names": {
        "type": "json_object",
        "schema": {"type": "object", "required": [f"p{n}" for n in range(2900)]},
    },
    "large constant": {"type": "json_object", "schema": {"const": list(range(60_000))}},
    "patterns at once": {
        "type": "json_object",
        "schema": {"allOf": [{"type": "string", "pattern": f"a{n}"} for n in range(25)]},
    },
    "terminals at once": {
        "type": "grammar",
        "grammar": "start: A\nA: " + " & ".join(f"/(?s:.)*a{n}(?s:.)*/" for n in range(25)),
    },
    "forced without end": {"type": "grammar", "grammar": 'root ::= x ""+ root\nx ::= "a"{1,}'},
    "forced for long": {"type": "regex", "regex": "a{1000000000}"},
    "forced by a pattern": {
        "type": "json_object",
        "schema": {"type": "string", "pattern": "^a{1000000000}$"},
    },
    "forced by a constant": {"type": "json_object", "schema": {"const": "x" * 500_000}},
    "forced by a reference": {
        "type": "json_object",
        "schema": {"type": "array", "minItems": 1, "items": {"$ref": "#"}},
    },
    "multiples": {
        "type": "json_object",
        "schema": {"allOf": [{"type": "integer", "multipleOf": n} for n in (9973, 9967, 9949)]},
    },
    "schema inside a grammar": {
        "type": "grammar",
        "grammar": 'start: %json {"allOf": [{"pattern": "a"}, {"pattern": "b"}]}',
    },
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_fails_alone_and_soon_or_works(
    client: openai.OpenAI, server: LiveServer, name: str
) -> None:
    body = {"model": "smollm2", "messages": MESSAGES, "max_tokens": 8}
    gaps: list[float] = []

    def stream() -> None:
        last = time.monotonic()
        chunks = client.chat.completions.create(**body | {"max_tokens": 60, "stream": True})
        for _ in chunks:
            gaps.append(time.monotonic() - last)
            last = time.monotonic()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(stream)
        begun = time.monotonic()
        reply = httpx2.post(
            f"{server.url}/v1/chat/completions",
            json=body | {"response_format": BOMBS[name]},
            timeout=60,
        )
        took_s = time.monotonic() - begun
        running.result()
    assert reply.status_code in (200, 400), reply.text[:500]
    if reply.status_code == 400:
        assert reply.json()["error"]["message"]
    assert took_s < 10  # 2 s on a quiet machine, by the bench
    assert len(gaps) > 2 and max(gaps[1:]) < 5


def test_reasoning_is_apart_from_content(client: openai.OpenAI) -> None:
    request: Any = {"model": "thinker", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    message = client.chat.completions.create(**request).choices[0].message
    assert message.content == "" and message.reasoning_content
    chunks = client.chat.completions.create(**request, stream=True)
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert not any(delta.content for delta in deltas)
    assert any(getattr(delta, "reasoning_content", None) for delta in deltas)


def test_template_arguments_switch_reasoning_off(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="thinker",
        messages=MESSAGES,
        max_tokens=12,
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    )
    message = reply.choices[0].message
    assert message.content and not hasattr(message, "reasoning_content")


def test_hints_are_left_out_and_named(server: LiveServer) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "format": "int64"}}}
    reply = server.post(
        "/v1/chat/completions",
        {
            "model": "smollm2",
            "messages": MESSAGES,
            "max_tokens": 2,
            "response_format": {"type": "json_object", "schema": schema},
        },
    )
    assert reply.status_code == 200
    assert reply.headers["x-localinfra-ignored"] == "response_format.schema.properties.n.format"


def test_a_schemas_null_is_as_good_as_nothing(client: openai.OpenAI) -> None:
    schema = {"type": "integer", "nullable": True, "minimum": 5, "maximum": 6, "format": None}
    texts = {answer(client, {"type": "json_object", "schema": schema}, seed=n) for n in range(3)}
    assert texts <= {"5", "6", "null"}


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
