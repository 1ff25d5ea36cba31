"""Grammars that would take for ever, on the real vocabulary, beside a stream that goes on."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest
from live import LiveServer

MESSAGES: Any = [{"role": "user", "content": "Describe Kermit the frog."}]


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
        reply = httpx2.post(
            f"{server.url}/v1/chat/completions",
            json=body | {"response_format": BOMBS[name]},
            timeout=120,  # 2 s on a quiet machine, by the bench
        )
        running.result()
    assert reply.status_code in (200, 400), reply.text[:500]
    if reply.status_code == 400:
        assert reply.json()["error"]["message"]
    assert len(gaps) > 2 and max(gaps[1:]) < 30  # the stream goes on beside it
