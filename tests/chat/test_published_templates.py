"""70 published templates: all load, what they render for an answer is parsed into that answer,
however it is cut, and grammars accept it."""

import functools
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from answering import ANSWERS, SAID, THOUGHT, TOOLS, Read, described, read, written
from grammar_forms import Accepting
from hypothesis import given, settings
from published_templates import folder
from valid_calls import ARGUMENTS, has_null, is_ambiguous

from localinfra.chat.answer import Answer, Tool, ToolUse, grammar_of
from localinfra.chat.messages import Json
from localinfra.chat.template import ChatTemplate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WITHOUT_CALLS = {
    "HuggingFaceTB-SmolLM3-3B",
    "LFM2-8B-A1B",
    "LFM2.5-Instruct",
    "google-gemma-2-2b-it",
    "ibm-granite-granite-3.3-2B-Instruct",
    "llama-cpp-rwkv-world",
    "microsoft-Phi-3.5-mini-instruct",
}
# Some write content as reasoning: the last message, or what is said beside a call.
AS_REASONING = {
    ("NVIDIA-Nemotron-Nano-v2", "content"),
    ("NVIDIA-Nemotron-Nano-v2", "reasoning"),
    ("openai-gpt-oss-120b", "content and a call"),
}


@functools.cache
def templates() -> dict[str, ChatTemplate]:
    return {
        path.stem: ChatTemplate(
            path.read_text(encoding="utf-8"),
            bos_token="<BOS>",
            eos_token="<EOS>",
            special_tokens=[],
        )
        for path in sorted(folder().glob("*.jinja"))
    }


def test_all_load() -> None:
    assert len(templates()) == 70


def test_all_that_write_calls_have_their_own_form() -> None:
    without = {name for name, template in templates().items() if not template.voice.writes_calls}
    assert without == WITHOUT_CALLS


def parsed() -> Iterator[tuple[str, ChatTemplate]]:
    for name, template in templates().items():
        if template.voice.writes_calls:
            yield name, template


@pytest.mark.parametrize("kind", ANSWERS)
def test_answers_come_back(kind: str) -> None:
    failures: dict[str, object] = {}
    for name, template in parsed():
        if (name, kind) in AS_REASONING:
            continue
        voice = template.voice
        text, is_thinking = written(template, ANSWERS[kind])
        answer = msgspec.structs.replace(
            ANSWERS[kind],
            reasoning=THOUGHT if THOUGHT in text else "",
            content=SAID if SAID in text else "",
        )
        if len(answer.calls) > 1 and voice.calls.is_single:
            continue
        if answer.content and answer.calls and not stands_beside(template, text):
            continue
        whole = read(voice, [text], is_thinking)
        if without_end(whole, answer) != answer:
            failures[name] = text, whole
        elif any(
            read(voice, [text[:at], text[at:]], is_thinking) != whole for at in range(len(text))
        ):
            failures[name] = text, "depends on where it is cut"
    assert not failures


def stands_beside(template: ChatTemplate, text: str) -> bool:
    """Whether content and a call are one message, in this order."""
    end = written(template, ANSWERS["content"])[0].partition(SAID)[2].strip()
    between = text.partition(SAID)[2].partition("take_in")[0]
    return "take_in" not in text.partition(SAID)[0] and (not end or end not in between)


def without_end(found: Read, answer: Read) -> Read:
    """Without what the template writes after an answer: the engine ends before it."""
    content = found.content.strip()
    return msgspec.structs.replace(found, content=content[: len(answer.content)])


@pytest.mark.parametrize("kind", ["call", "no arguments", "two calls", "reasoning and a call"])
@pytest.mark.parametrize("is_required", [True, False])
def test_grammars_accept_what_templates_write(kind: str, is_required: bool) -> None:
    answer = Answer(use=ToolUse(TOOLS, is_required=is_required))
    failures: dict[str, object] = {}
    for name, template in parsed():
        voice = template.voice
        if voice.calls.is_single and kind == "two calls":
            continue
        text, is_thinking = written(template, ANSWERS[kind])
        source = grammar_of(answer, voice, {}, is_thinking)
        assert source
        rest = Accepting(source, {}).rest_of(text)
        if rest is None or "look_up" in rest or "take_in" in rest:
            failures[name] = text, rest
    assert not failures


@settings(max_examples=30)
@given(ARGUMENTS)
def test_any_valid_call_is_accepted_and_read_back(pair: tuple[dict[str, Json], Any]) -> None:
    schema, arguments = pair
    called = Read(calls=[("look_up", arguments)])
    tool = Tool("look_up", {}, described(schema), "tools")
    use = ToolUse([tool], is_required=True)
    failures: dict[str, object] = {}
    for name, template in parsed():
        voice = template.voice
        # Nested tags say nothing of null.
        is_left_out = voice.calls.members and voice.calls.members.item and has_null(arguments)
        if is_left_out or is_ambiguous(voice.calls, arguments):
            continue
        text, is_thinking = written(template, called, [tool])
        found = read(voice, [text], is_thinking, [tool])
        source = grammar_of(Answer(use=use), voice, {}, is_thinking)
        assert source
        rest = Accepting(source, {}).rest_of(text)
        if found.calls != called.calls or rest is None or "look_up" in rest:
            failures[name] = text, found.calls, rest
    assert not failures
