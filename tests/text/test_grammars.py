"""Grammars of many tools, and of tools that together are too large."""

import asyncio
from typing import Any

import msgspec
import pytest
from echo import Bytes

from localinfra.chat import answer
from localinfra.chat.answer import Answer, AnswerFormat, Tool, ToolUse
from localinfra.chat.formats.form import Voice
from localinfra.chat.formats.generic import GENERIC
from localinfra.chat.messages import Json
from localinfra.engine.grammar.compiler import MAX_CACHED, MAX_CACHED_S, GrammarCompiler
from localinfra.engine.grammar.constraint import Grammar
from localinfra.errors import InvalidRequest
from localinfra.text.grammars import MAX_SOURCES, Compiled, Grammars
from localinfra.text.prompts import ChatPrompt

PROMPT = ChatPrompt([], Voice(GENERIC, takes_tools=True), is_thinking=False, is_continued=False)


def tools(count: int, num_properties: int) -> list[Tool]:
    """Each with a schema of its own, since equal ones are written once."""
    schemas: list[Json] = [{"type": "string"}, {"type": "integer"}, {"enum": ["one", "two"]}]
    properties = {f"property_{at}": schemas[at % 3] for at in range(num_properties)}
    return [
        Tool(
            f"tool_{at}",
            {},
            {"type": "object", "properties": {**properties, f"own_{at}": {"type": "string"}}},
            f"tools[{at}].parameters",
        )
        for at in range(count)
    ]


def compiled(wanted: Answer, times: int = 1) -> Compiled:
    grammars = Grammars(Bytes())

    async def compile() -> Compiled:
        for _ in range(times):
            last = await grammars.compile(wanted, PROMPT)
        return last

    try:
        return asyncio.run(compile())
    finally:
        grammars.close()


def accepts(found: Compiled, name: str, arguments: str) -> bool:
    assert found.grammar
    constraint = found.grammar.follow()
    for byte in f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}'.encode():
        if not constraint.allows(byte):
            return False
        constraint.accept(byte)
    return True


def required(declared: list[Tool]) -> Answer:
    return Answer(use=ToolUse(declared, is_required=True))


def test_a_thousand_tools_are_told_apart_and_each_keeps_its_schema() -> None:
    found = compiled(required(tools(1000, 3)))
    assert accepts(found, "tool_999", '{"property_1": 5')
    assert not accepts(found, "tool_999", '{"property_1": "')
    assert not accepts(found, "tool_1000", "{")
    assert found.left_out == []


def noted_grammars(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What grammars are written of."""
    written: list[object] = []

    def noted(*given: Any, **options: Any) -> Any:
        written.append(given)
        return answer.grammar_of(*given, **options)

    monkeypatch.setattr("localinfra.text.grammars.grammar_of", noted)
    return written


def test_the_grammar_of_the_same_tools_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    written = noted_grammars(monkeypatch)
    assert accepts(compiled(required(tools(3, 3)), times=3), "tool_2", '{"property_1": 5')
    assert len(written) == 1


def forms(count: int) -> list[Answer]:
    """Of JSON answers, each with another schema."""
    schemas: list[dict[str, Json]] = [
        {"type": "object", "properties": {f"p{at}": {}}} for at in range(count)
    ]
    return [Answer(AnswerFormat("json", "response_format", schema)) for schema in schemas]


def test_who_sends_many_schemas_pushes_out_none_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor can it see by the time of its own how many others have sent."""
    written = noted_grammars(monkeypatch)
    grammars = Grammars(Bytes())

    async def compile(wanted: list[Answer], client: str) -> list[Grammar | None]:
        return [(await grammars.compile(one, PROMPT, client)).grammar for one in wanted]

    async def flood() -> None:
        own = await compile(forms(2), "modest")
        many = await compile(forms(MAX_SOURCES + 10), "greedy")
        num_written = len(written)
        assert num_written == 2 + len(many)
        assert await compile(forms(2), "modest") == own  # the very same
        assert await compile(forms(len(many))[-20:], "greedy") == many[-20:]
        assert len(written) == num_written
        assert (await compile(forms(1), "greedy")) != many[:1]  # its oldest is gone
        assert len(written) == num_written + 1

    try:
        asyncio.run(flood())
    finally:
        grammars.close()


def test_one_client_alone_has_all_schemas_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    written = noted_grammars(monkeypatch)
    grammars = Grammars(Bytes())

    async def twice() -> None:
        for _ in range(2):
            for one in forms(MAX_SOURCES):
                await grammars.compile(one, PROMPT, "alone")

    try:
        asyncio.run(twice())
    finally:
        grammars.close()
    assert len(written) == len(grammars._compiler._grammars) == MAX_SOURCES == MAX_CACHED


def test_a_grammar_that_took_long_pushes_out_none_of_others() -> None:
    compiler = GrammarCompiler(Bytes().grammar_tokenizer)

    def compile(owner: str, text: str) -> Grammar:
        source = f'%llguidance {{}}\nstart: "{text}"'
        return compiler.compile(source, "x", is_plain=True, owner=owner)

    try:
        own = compile("modest", "a")
        compile("greedy", "b").work_s += MAX_CACHED_S
        long = compile("greedy", "c")
        long.work_s += 2 * MAX_CACHED_S
        assert compile("greedy", "c") is long and compile("modest", "a") is own
        assert len(compiler._grammars) == 2
        compile("modest", "d")
        assert compile("modest", "a") is own and compile("greedy", "c") is not long
    finally:
        compiler.close()


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """llguidance takes at most 65,000 symbols, which are slow to reach."""
    original = GrammarCompiler.compile

    def compile(self: GrammarCompiler, source: str, param: str, **options: Any) -> Grammar:
        if len(source) > 6000:
            raise InvalidRequest("It is too large.", param)
        return original(self, source, param, **options)

    monkeypatch.setattr(GrammarCompiler, "compile", compile)


@pytest.mark.usefixtures("small_limit")
def test_tools_that_are_too_large_together_may_be_called_with_any_object() -> None:
    found = compiled(required(tools(20, 20)), times=2)
    assert accepts(found, "tool_19", '{"property_1": "')
    assert not accepts(found, "tool_20", "{")
    assert found.left_out == [f"tools[{at}].parameters" for at in range(20)]


@pytest.mark.usefixtures("small_limit")
def test_strict_tools_that_are_too_large_together_are_refused() -> None:
    strict = [msgspec.structs.replace(tool, is_strict=True) for tool in tools(20, 20)]
    with pytest.raises(InvalidRequest, match="too large"):
        compiled(required(strict))
