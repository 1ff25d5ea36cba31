"""Calls that a model writes without the marks of its form."""

import json
from typing import Any

import msgspec
import pytest
from call_forms import FORMS, THINK

from localinfra.chat.answer import Tool, ToolUse, parser_of
from localinfra.chat.formats.bare import MAX_HELD_CHARS
from localinfra.chat.formats.form import Voice
from localinfra.chat.formats.generic import GENERIC
from localinfra.chat.formats.pieces import (
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Piece,
    Thought,
    joined,
)

WEATHER = Tool(
    "get_weather",
    {},
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
    "tools[0]",
)
CLOSED = Tool("stop", {}, {"type": "object", "additionalProperties": False}, "tools[1]")
TOOLS = [WEATHER, CLOSED]
MISTRAL = Voice(FORMS["mistral"], takes_tools=True)
THINKER = Voice(GENERIC, takes_tools=True, reasoning=THINK)

PARIS = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
ROME = '{"name": "get_weather", "parameters": {"city": "Rome", "days": 2}}'
BOTH = [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Rome", "days": 2})]


def read(
    parts: list[str], voice: Voice = THINKER, *, is_cut: bool = False, **use: Any
) -> list[Piece]:
    parser = parser_of(voice, tools=TOOLS, auto=ToolUse(TOOLS, **use), is_thinking=False)
    assert parser
    pieces = [piece for part in parts for piece in parser.push(part)]
    return joined([*pieces, *parser.finish(is_cut=is_cut)])


def calls_in(pieces: list[Piece]) -> list[tuple[str, Any]]:
    names = [piece.name for piece in pieces if isinstance(piece, CallStart)]
    texts = [piece.text for piece in pieces if isinstance(piece, CallArguments)]
    assert sum(isinstance(piece, CallEnd) for piece in pieces) == len(names)
    return [(name, json.loads(text)) for name, text in zip(names, texts, strict=True)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PARIS, BOTH[:1]),
        (f"\n{PARIS}\n", BOTH[:1]),
        (f"```json\n{PARIS}\n```", BOTH[:1]),
        (f"```\n{ROME}\n```\n", BOTH[1:]),
        (f"[{PARIS}, {ROME}]", BOTH),
        (f"```json\n[\n{PARIS},\n{ROME}\n]\n```", BOTH),
        (f"{PARIS}\n{ROME}", BOTH),
        (f"```json\n{PARIS}\n```\n\n```json\n{ROME}\n```", BOTH),
        (f"{PARIS}; {ROME}", BOTH),
        (f"<tool_call>\n{PARIS}\n</tool_call>\n<tool_call>\n{ROME}\n</tool_call>", BOTH),
        (f"{PARIS}\n</tool_call>", BOTH[:1]),
        ('{"name": "stop", "arguments": {}}', [("stop", {})]),
        ('{"name":"get_weather","arguments":"{\\"city\\":\\"Paris\\"}"}', BOTH[:1]),
        (
            '{"name": "get_weather", "arguments": {"city": "é \\"{\\" \\n"}}',
            [("get_weather", {"city": 'é "{" \n'})],
        ),
    ],
)
def test_an_answer_of_nothing_but_calls_is_calls(text: str, expected: list[Any]) -> None:
    for cut in range(len(text)):
        pieces = read([text[:cut], text[cut:]], MISTRAL)
        assert calls_in(pieces) == expected
        assert not any(isinstance(piece, Content) for piece in pieces)
    thought = "<think>They ask for <b>."
    thinker = msgspec.structs.replace(MISTRAL, reasoning=THINK)
    pieces = read([*f"{thought}</think>\n\n{text}"], thinker)
    assert pieces[0] == Thought(thought.removeprefix("<think>"))
    assert calls_in(pieces) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Paris is warm.",
        f"I would call {PARIS}",
        f"{PARIS} is the call.",
        f"```json\n{PARIS}\n```\nThis asks for the weather.",
        '{"name": "get_news", "arguments": {}}',
        '{"name": "Alice", "age": 7}',
        '{"name": "get_weather", "arguments": {"days": 2}}',
        '{"name": "get_weather", "arguments": {"city": 2}}',
        '{"name": "stop", "arguments": {"now": true}}',
        '{"name": "get_weather"}',
        '{"name": "get_weather", "arguments": {"city": "Paris"}, "result": "warm"}',
        '{"name": "get_weather", "arguments": {"city": "Par',
        '{"name": "get_weather", "arguments": {"city": "\\ud800"}}',
        '{"name": "get_weather", "arguments": {"city": "Paris", "pi": NaN}}',
        f"{PARIS}, 2]]",
        "[1, 2, 3]",
        "```python\nprint(1)\n```",
        "<b>bold</b>",
        "   ",
    ],
)
def test_any_other_answer_is_content(text: str) -> None:
    for cut in range(len(text)):
        assert read([text[:cut], text[cut:]], MISTRAL) == [Content(text)], text[:cut]
    assert read([*text], MISTRAL) == [Content(text)]


def test_content_flows_as_soon_as_it_can_be_no_call() -> None:
    for text, last in (
        ("Hello", "H"),
        ('{"names', '{"names'),
        ('{"name": "get_news"', '{"name": "get_news"'),
        (f"{PARIS} is", f"{PARIS} i"),
        ("```py", "```p"),
    ):
        parser = parser_of(MISTRAL, tools=TOOLS, auto=ToolUse(TOOLS), is_thinking=False)
        assert parser
        told = ""
        for at, character in enumerate(text, 1):
            told += "".join(p.text for p in parser.push(character) if isinstance(p, Content))
            assert told == (text[:at] if at >= len(last) else "")
            assert parser.num_held == at - len(told)


def test_a_long_answer_flows() -> None:
    text = '{"name": "get_weather", "arguments": {"city": "' + "x" * MAX_HELD_CHARS
    parser = parser_of(MISTRAL, tools=TOOLS, auto=ToolUse(TOOLS), is_thinking=False)
    assert parser
    assert parser.push(text) == [Content(text)]


def test_an_answer_that_was_cut_off_is_content() -> None:
    assert read([PARIS], MISTRAL, is_cut=True) == [Content(PARIS)]


def test_only_functions_that_may_be_called_are() -> None:
    allowed = frozenset({"stop"})
    assert read([PARIS], MISTRAL, allowed=allowed) == [Content(PARIS)]


def test_without_parallel_calls_there_is_one_at_most() -> None:
    text = f"{PARIS}\n{ROME}"
    assert read([text], MISTRAL, is_parallel=False) == [Content(text)]
    assert calls_in(read([PARIS], MISTRAL, is_parallel=False)) == BOTH[:1]


def test_calls_with_their_marks_stream_as_ever() -> None:
    parser = parser_of(THINKER, tools=TOOLS, auto=ToolUse(TOOLS), is_thinking=False)
    assert parser
    begun = '<tool_call>\n{"name": "get_weather", "arguments": {"city'
    assert parser.push(begun) == [CallStart("get_weather"), CallArguments('{"city')]
