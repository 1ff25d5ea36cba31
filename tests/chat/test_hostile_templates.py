"""Templates come in files of anyone: what is learned from one never holds up the server."""

import logging
import random
import re
import time
from collections.abc import Callable, Sequence

import pytest
from answering import TOOLS
from chat_templates import template
from hypothesis import given
from hypothesis import strategies as st
from learning import CONTENT, EACH, END, HERMES, TAGS, learned

from localinfra.chat.answer import parser_of
from localinfra.chat.formats.form import (
    KEY,
    MAX_MARK_CHARS,
    NAME,
    CallForm,
    Members,
    ReasoningMarks,
    Voice,
    texts_in,
)
from localinfra.chat.formats.generic import GENERIC
from localinfra.chat.formats.patterns import find_mark
from localinfra.chat.formats.values import literal_json
from localinfra.chat.sandbox.environment import SANDBOX
from localinfra.chat.voice import voice_of

LONG = "X" * 300


def cpu_s(work: Callable[[], object]) -> float:
    """The processor time of this thread."""
    started_s = time.thread_time()
    work()
    return time.thread_time() - started_s


# What is learned


def thinking(begin: str, end: str) -> str:
    thought = "{{ message.reasoning_content }}"
    return "{% if message.reasoning_content %}" + begin + thought + end + "{% endif %}" + CONTENT


def calling(before: str = "<call>", name: str = "{{ call.name }}:", after: str = "</call>") -> str:
    return CONTENT + EACH + before + name + "{{ call.arguments | tojson }}" + after + END


def members(before: str = "<arg>", after: str = "</arg>", value: str = "{{ value }}") -> str:
    argument = TAGS + before + "{{ key }}=" + value + after + END
    return CONTENT + EACH + "<call>{{ call.name }}" + argument + "</call>" + END


REASONING = {
    "its beginning": thinking(f"<think>{LONG}", "</think>"),
    "its end": thinking("<think>", f"</think>{LONG}"),
    "what ends it in the content": "{{ (message.content or '').split('</" + LONG + ">')[-1] }}",
}


@pytest.mark.parametrize("says", REASONING.values(), ids=REASONING.keys())
def test_reasoning_with_a_long_mark_is_content(says: str, caplog: pytest.LogCaptureFixture) -> None:
    short = learned(says.replace(LONG, "XX"))
    assert short.reasoning
    with caplog.at_level(logging.WARNING):
        assert learned(says + HERMES).reasoning is None
    [record] = caplog.records
    assert re.search(r"reasoning can't be used.* a mark has 3\d\d characters", record.getMessage())


OTHERS = {
    "before content": LONG + CONTENT,
    "after content": CONTENT + LONG + HERMES.replace("{{-", LONG + "{{-"),
    "before calls": calling(before=f"<call>{LONG}"),
    "after calls": calling(after=f"{LONG}</call>"),
    "between calls": calling(after="</call>{{ '" + LONG + "' if not loop.last }}"),
    "around calls": calling("{{ '<calls>" + LONG + "' if loop.first }}<call>"),
    "before arguments": members(before=f"<{LONG}>"),
    "after arguments": members(after=f"</{LONG}>"),
    "around texts": members(
        value="{{ '" + LONG + "' ~ value ~ '" + LONG + "' if value is string else value | tojson }}"
    ),
    "instead of true": members(value="{{ value if value is not true else '" + LONG + "' }}"),
    "many names": calling(name="{{ call.name }}-" * 5),
}


@pytest.mark.parametrize("says", OTHERS.values(), ids=OTHERS.keys())
def test_other_long_marks_are_replaced_by_the_generic_form(
    says: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        voice = learned(says)
    assert voice == Voice(GENERIC, takes_tools=False)
    [record] = caplog.records
    assert re.search(r"a mark has \d+ characters|a mark holds more than 4", record.getMessage())


@pytest.mark.parametrize("says", [*OTHERS.values(), *REASONING.values()])
def test_no_learned_text_is_long(says: str) -> None:
    for size in (200, 257, 3000):
        voice = learned(says.replace(LONG, "X" * size))
        assert max(map(len, texts_in(voice))) <= MAX_MARK_CHARS


@pytest.mark.parametrize("character", [*map(chr, range(6)), "\ud800"])
@pytest.mark.parametrize(
    "says", [thinking("<think>Z", "Z</think>"), calling("<Z>"), members("<Z>")]
)
def test_placeholders_and_halves_of_characters_are_no_marks(says: str, character: str) -> None:
    """In an expression, a placeholder stands for any text, and thirty of them take forever."""
    written = "{{ '\\u%04x' }}" % ord(character)  # noqa: UP031  # braces are Jinja's
    known, voice = learned(says), learned(says.replace("Z", written))
    assert known.reasoning or known.writes_calls
    assert voice == Voice(GENERIC, takes_tools=False, reasoning=voice.reasoning)
    assert voice.reasoning in (None, ReasoningMarks("<think>", "</think>"))


@pytest.mark.parametrize(
    "says",
    [
        calling(before="{{ '9' * 4500 if loop.first else '8' * 4500 }}"),
        calling(before="{{ '9' * 1500 }}<call>{{ loop.index }}"),
        members(value="{{ '{[]: 1}' if value is mapping else value }}"),
        members(value="{{ '-' * 3000 ~ '1' if value is mapping else value }}"),
        members(value="{{ '[' * 3000 if value is mapping else value }}"),
    ],
    ids=["digits", "few digits", "no key", "signs", "brackets"],
)
def test_odd_texts_are_no_errors(says: str) -> None:
    voice = learned(says)
    assert max(map(len, texts_in(voice))) <= MAX_MARK_CHARS


# How long it takes to learn

BESIDE = {
    "a closing tag": ("{# </" + "think" * 20_000 + " #}", ""),
    "tools": ("", "{{ '<' ~ 'toolcall' * 50_000 }}"),
}


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE.keys())
def test_learning_takes_no_longer_whatever_the_template_holds(beside: tuple[str, str]) -> None:
    frame = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}|{% endfor %}"

    def learning_s(source: str) -> float:
        compiled = SANDBOX.compiled(source)
        return min(cpu_s(lambda: voice_of(source, compiled, "", "")) for _ in range(3))

    comment, told = beside
    assert learning_s(told + frame + comment) < 30 * learning_s(frame)


# What parsers do with it at each token


def brute(text: str, marks: Sequence[str], at: int) -> tuple[int, str]:
    for start in range(at, len(text)):
        for mark in marks:
            if text.startswith(mark, start):
                return start, mark
        if any(mark.startswith(text[start:]) for mark in marks):
            return start, text[start:]
    return len(text), ""


words = st.text("ab<", min_size=1, max_size=6)


@given(st.text("ab<", max_size=20), st.lists(words, max_size=3), st.integers(0, 20))
def test_the_first_mark_or_the_beginning_of_one_is_found(
    text: str, marks: list[str], at: int
) -> None:
    at = min(at, len(text))
    assert find_mark(text, marks, at) == brute(text, marks, at)


CHANCE = random.Random(7)


def marks_of(size: int, count: int = 20) -> list[str]:
    """New ones of this size each time, half of each one character."""
    half = size // 2
    return ["a" * half + "".join(CHANCE.choices("ab", k=size - half)) for _ in range(count)]


def first_pushes_s(size: int) -> float:
    """Of answers with such marks, whose text may begin one at each character."""
    text = "a" * (size // 2 - 1) + "c" + "a" * (size // 3)
    voices = [
        Voice(GENERIC, False, ReasoningMarks("<think>", mark), content_end=mark)
        for mark in marks_of(size)
    ]

    def push() -> None:
        for voice in voices:
            for is_thinking in (True, False):
                parser = parser_of(voice, tools=TOOLS, is_thinking=is_thinking)
                assert parser
                parser.push(text)

    return cpu_s(push)


def test_tokens_are_parsed_in_linear_time_however_long_the_marks() -> None:
    assert min(first_pushes_s(256) for _ in range(3)) < 3 * min(first_pushes_s(128) for _ in "abc")


IN_TAGS = CallForm(
    "<call>",
    f"<call>{NAME}",
    "</call>",
    members=Members(f"<{KEY}>", f"</{KEY}>"),
)


def test_arguments_are_read_in_linear_time_however_long_their_names() -> None:
    """The model chooses them, and the mark after each holds its name."""

    def reading_s(size: int) -> float:
        names = [mark.replace("b", "d") for mark in marks_of(size)]
        parser = parser_of(Voice(IN_TAGS, True), tools=TOOLS, is_thinking=False)
        assert parser
        parser.push("<call>look_up")
        return cpu_s(lambda: [parser.push(f"<{name}>1</{name}>") for name in names])

    assert min(reading_s(400) for _ in range(3)) < 3 * min(reading_s(200) for _ in range(3))


def test_literals_are_read_in_linear_time_whatever_begins_their_texts() -> None:
    """Also where none of these texts ends."""
    form = Members("", "", quotes=("[", "zz"), literals="bare")

    def reading_s(text: str) -> float:
        return min(cpu_s(lambda: literal_json(text + "}", form)) for _ in range(3))

    assert literal_json("[a]zz", form) == '"a]"'
    assert reading_s("[" * 20_000) < 3 * reading_s("[a]zz" * 4000)


def test_a_template_with_a_long_mark_answers() -> None:
    """As reported: 7,000 characters after the end of reasoning."""
    source = (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.reasoning_content %}<think>"
        "{{ m.reasoning_content }}</think>" + "X" * 3000 + "{% endif %}{{ m.content }}<|end|>"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|><think>{% endif %}"
    )
    assert template(source).voice == Voice(GENERIC, takes_tools=False)
