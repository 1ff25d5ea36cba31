"""Recorded answers of model families → the same content, reasoning and calls, however split.

The texts are as the models write them, with control tokens spelled out.
"""

import json
from typing import Any

import pytest
from call_forms import FORMS, REASONING

from localinfra.chat.answer import Tool, parser_of
from localinfra.chat.formats.form import NAME, Voice
from localinfra.chat.formats.harmony import HARMONY
from localinfra.chat.formats.pieces import (
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Piece,
    Thought,
    joined,
)

TOOLS = [Tool("get_weather", {}, None, "tools[0]")]


def voice(family: str, thinks: bool = False) -> Voice:
    if family == "harmony":
        return HARMONY
    reasoning = REASONING[0] if thinks else None
    return Voice(FORMS[family], takes_tools=True, reasoning=reasoning)


Message = tuple[str, str, list[tuple[str, object]]]  # content, reasoning, calls


def read(
    texts: list[str], spoken: Voice, is_thinking: bool = False, has_tools: bool = True
) -> list[Piece]:
    parser = parser_of(spoken, tools=TOOLS if has_tools else (), is_thinking=is_thinking)
    assert parser
    pieces = [piece for text in texts for piece in parser.push(text)]
    return joined([*pieces, *parser.finish()])


def message(pieces: list[Piece]) -> Message:
    content = "".join(piece.text for piece in pieces if isinstance(piece, Content))
    thought = "".join(piece.text for piece in pieces if isinstance(piece, Thought))
    names = [piece.name for piece in pieces if isinstance(piece, CallStart)]
    arguments = [piece.text for piece in pieces if isinstance(piece, CallArguments)]
    assert sum(isinstance(piece, CallEnd) for piece in pieces) == len(names)
    return content, thought, [(n, json.loads(a)) for n, a in zip(names, arguments, strict=True)]


PARIS = ("get_weather", {"city": "Paris"})
TRICKY = ("note", {"text": 'a "quoted" } </tool_call> ] \\ é', "n": [1, {"x": None}]})
TRICKY_JSON = json.dumps(TRICKY[1], ensure_ascii=False)

RECORDED: list[tuple[str, str, Message]] = [
    (
        "hermes",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>',
        ("", "", [PARIS]),
    ),
    (
        "hermes",
        "Let me look.\n\n<tool_call>\n"
        '{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n<tool_call>\n'
        f'{{"name": "note", "arguments": {TRICKY_JSON}}}\n</tool_call>\n',
        ("Let me look.", "", [PARIS, TRICKY]),
    ),
    (
        "hermes",  # with other blanks, as some models write it
        '<tool_call>{"name":"get_weather","arguments":{"city":"Paris"}}</tool_call>'
        '<tool_call>{ "name" : "get_weather" , "arguments" : {"city":"Paris"} }</tool_call>',
        ("", "", [PARIS, PARIS]),
    ),
    (
        "generic",
        "Tags such as <tool or <b> < 3 stay.",
        ("Tags such as <tool or <b> < 3 stay.", "", []),
    ),
    ("generic", "  two blanks first\n", ("  two blanks first\n", "", [])),
    ("generic", "<tool_call> is a mark.", ("<tool_call> is a mark.", "", [])),
    (
        "llama",
        '{"name": "get_weather", "parameters": {"city": "Paris"}}',
        ("", "", [PARIS]),
    ),
    (
        "llama",
        '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris"}}; '
        '{"name": "get_weather", "parameters": {"city": "Paris"}}',
        ("", "", [PARIS, PARIS]),
    ),
    ("llama", '{"answer": 42}', ('{"answer": 42}', "", [])),
    ("llama", 'It is {"name": "x"}.', ('It is {"name": "x"}.', "", [])),
    (
        "mistral",
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}}]',
        ("", "", [PARIS]),
    ),
    (
        "mistral",
        'Sure.[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}, '
        f'{{"name": "note", "arguments": {TRICKY_JSON}}}]',
        ("Sure.", "", [PARIS, TRICKY]),
    ),
    (
        "mistral",  # blanks after calls are not content
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}}] Done.',
        ("Done.", "", [PARIS]),
    ),
    (
        "mistral-args",
        f'[TOOL_CALLS]get_weather[ARGS]{{"city": "Paris"}}[TOOL_CALLS]note[ARGS]{TRICKY_JSON}',
        ("", "", [PARIS, TRICKY]),
    ),
    (
        "deepseek",
        "I'll check.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
        '```json\n{"city": "Paris"}\n```<｜tool▁call▁end｜>\n'
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>note\n```json\n{TRICKY_JSON}\n"
        "```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ("I'll check.", "", [PARIS, TRICKY]),
    ),
    (
        "deepseek-3.1",
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}'
        f"<｜tool▁call▁end｜><｜tool▁call▁begin｜>note<｜tool▁sep｜>{TRICKY_JSON}"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ("", "", [PARIS, TRICKY]),
    ),
    (
        "gemma",
        '{"name": "get_weather", "parameters": {"city": "Paris"}}',
        ("", "", [PARIS]),
    ),
    (
        "blank",  # which is all that ends a name
        f'Sure. <<call get_weather {{"city": "Paris"}}>>\n<<call note {TRICKY_JSON}>>',
        ("Sure.", "", [PARIS, TRICKY]),
    ),
    (
        "harmony",
        "<|channel|>analysis<|message|>They want the weather.<|end|><|start|>assistant"
        "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
        '{"city": "Paris"}<|call|>',
        ("", "They want the weather.", [PARIS]),
    ),
    (
        "harmony",  # the address before the channel
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant to=functions.get_weather"
        '<|channel|>commentary json<|message|>{"city": "Paris"}',
        ("", "Hm.", [PARIS]),
    ),
    (
        "harmony",
        "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>"
        "It is 4 < 5.<|return|>",
        ("It is 4 < 5.", "Easy.", []),
    ),
]


@pytest.mark.parametrize(("family", "text", "expected"), RECORDED)
def test_a_recorded_answer_gives_its_calls_however_it_is_split(
    family: str, text: str, expected: Message
) -> None:
    spoken = voice(family)
    assert message(read([text], spoken)) == expected
    assert message(read(list(text), spoken)) == expected
    for cut in range(1, len(text)):
        assert message(read([text[:cut], text[cut:]], spoken)) == expected, text[:cut]


@pytest.mark.parametrize(("family", "text", "expected"), RECORDED)
def test_a_cut_answer_shows_no_beginning_of_a_mark(
    family: str, text: str, expected: Message
) -> None:
    """Wherever max_tokens cuts it, in one piece or by characters."""
    content, thought, _ = expected
    for end in range(len(text)):
        for texts in ([text[:end]], list(text[:end])):
            parser = parser_of(voice(family), tools=TOOLS, is_thinking=False)
            assert parser
            pieces = joined([p for t in texts for p in parser.push(t)] + parser.finish(is_cut=True))
            told = {
                kind: "".join(piece.text for piece in pieces if isinstance(piece, kind))
                for kind in (Content, Thought)
            }
            assert content.startswith(told[Content].rstrip()), text[:end]
            assert thought.startswith(told[Thought]), text[:end]


@pytest.mark.parametrize("end", ["<", "<tool_", "</thi", "<think"])
def test_the_beginning_of_a_mark_is_text_if_the_answer_ended_by_itself(end: str) -> None:
    spoken = voice("hermes", thinks=True)
    assert message(read([f"It is {end}"], spoken)) == (f"It is {end}", "", [])


THOUGHT = "<think>\nThe user wants <b>4</b>.\n</think>\n\nIt is 4."


@pytest.mark.parametrize("has_tools", [True, False])
def test_reasoning_is_not_content_however_it_is_split(has_tools: bool) -> None:
    spoken = voice("hermes", thinks=True)
    expected: Any = ("It is 4.", "The user wants <b>4</b>.\n", [])
    for cut in range(len(THOUGHT)):
        texts = [THOUGHT[:cut], THOUGHT[cut:]]
        assert message(read(texts, spoken, has_tools=has_tools)) == expected
    opened = THOUGHT.removeprefix("<think>\n")
    for cut in range(len(opened)):
        texts = [opened[:cut], opened[cut:]]
        assert message(read(texts, spoken, True, has_tools)) == expected


def test_reasoning_before_a_call_and_marks_in_later_content() -> None:
    spoken = voice("hermes", thinks=True)
    call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    thought = "<think>I could write <tool_call> now.</think>"
    assert message(read(list(f"{thought}\n\n{call}"), spoken)) == (
        "", "I could write <tool_call> now.", [PARIS],
    )  # fmt: skip
    text = "The mark is <think>, and </think> ends it."
    assert message(read(list(text), spoken)) == (text, "", [])


def test_reasoning_that_never_ends_is_the_whole_answer() -> None:
    assert message(read(list("<think>and so on"), voice("hermes", True))) == ("", "and so on", [])


def test_arguments_are_passed_on_as_written() -> None:
    parser = parser_of(voice("hermes"), tools=TOOLS, is_thinking=False)
    assert parser
    assert parser.push('<tool_call>\n{"name": "f", "argum') == []
    assert parser.push('ents": {"a": ') == [CallStart("f"), CallArguments('{"a": ')]
    assert parser.push('"x"') == [CallArguments('"x"')]
    assert parser.push("}}\n</tool") == [CallArguments("}"), CallEnd()]
    assert parser.push("_call>") == []
    assert parser.finish() == []


def test_a_call_that_is_cut_off_has_no_end() -> None:
    pieces = read(['<tool_call>\n{"name": "f", "arguments": {"a": "x'], voice("hermes"))
    assert pieces == [CallStart("f"), CallArguments('{"a": "x')]
    assert read(['<tool_call>\n{"name": "f'], voice("hermes")) == []


@pytest.mark.parametrize("family", [*FORMS, "harmony"])
def test_a_cut_anywhere_after_a_call_leaves_no_mark_in_the_content(family: str) -> None:
    form = voice(family).calls
    call = form.before.replace(NAME, "f") + '{"a": 1}' + form.after
    text = form.opening + call + form.separator + call + form.closing
    if family == "harmony":
        text = call + "<|call|>"
    first = text.index('{"a": 1}') + len('{"a": 1}')
    for end in range(first, len(text) + 1):
        pieces = read([text[:end]], voice(family))
        assert not any(isinstance(piece, Content) for piece in pieces), text[:end]
        calls = sum(isinstance(piece, CallEnd) for piece in pieces)
        assert calls == text[:end].count('{"a": 1}')


def test_a_harmony_call_that_is_cut_off_has_no_end() -> None:
    begun = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>"
    assert read([begun + '{"a": 1'], HARMONY) == [CallStart("f"), CallArguments('{"a": 1')]


def test_the_rest_of_a_harmony_message_is_its_content() -> None:
    parser = parser_of(HARMONY, is_thinking=False, is_continued=True)
    assert parser
    assert [*parser.push(" 42."), *parser.finish()] == [Content(" 42.")]


@pytest.mark.parametrize(
    ("text", "content", "thought"),
    [
        ("Hello", "Hello", ""),
        ("to be or not", "to be or not", ""),
        ("final", "final", ""),
        ("final answer", "final answer", ""),
        ("<|channel|>final<|message|>x<|end|>\ny", "x\ny", ""),
        ("<|channel|>final<|message|>x<|end|>\n", "x", ""),
        ("<|channel|>final<|message|>x<|channel|>analysis<|message|>t", "x", "t"),
    ],
)
def test_text_in_no_message_of_harmony_is_content(text: str, content: str, thought: str) -> None:
    for parts in ([text], list(text)):
        assert message(read(parts, HARMONY)) == (content, thought, [])


def test_only_functions_are_called() -> None:
    text = "<|channel|>commentary to=python<|message|>print()<|end|>"
    assert not any(isinstance(piece, CallStart) for piece in read([text], HARMONY))


def test_blanks_before_arguments_are_dropped_however_they_are_split() -> None:
    parts = ['<tool_call>\n{"name": "f", "arguments":', ' {"a": 1}}\n</tool_call>']
    assert read(parts, voice("hermes"))[1] == CallArguments('{"a": 1}')


def test_an_answer_without_marks_needs_no_parser() -> None:
    assert parser_of(voice("hermes"), is_thinking=False) is None
