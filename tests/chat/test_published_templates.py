"""70 published templates: all load, what they render for an answer is parsed into that answer,
however it is cut, and grammars accept it."""

import functools
from collections.abc import Iterator

import msgspec
import pytest
from answering import ANSWERS, PARAMETERS, SAID, THOUGHT, Read, read, written
from grammar_forms import Accepting
from published_templates import folder

from localinfra.chat.answer import Answer, Tool, ToolUse, grammar_of
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
    between = text.partition(SAID)[2].partition("take")[0]
    return "take" not in text.partition(SAID)[0] and (not end or end not in between)


def without_end(found: Read, answer: Read) -> Read:
    """Without what the template writes after an answer: the engine ends before it."""
    content = found.content.strip()
    return msgspec.structs.replace(found, content=content[: len(answer.content)])


# Their grammar wants calls otherwise than they write them: of several arguments in the schema's
# order, JSON in one line and without \u, quotes in texts escaped, an end after the last call.
WRITTEN_OTHERWISE = {
    *("CohereForAI-c4ai-command-r-plus-tool_use", "LFM2.5-8B-A1B", "Reka-Edge"),
    *("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "google-gemma-4-31B-it"),
    *("google-gemma-4-31B-it-interleaved", "openai-gpt-oss-120b"),
}


@pytest.mark.parametrize("kind", ["call", "no arguments", "two calls", "reasoning and a call"])
@pytest.mark.parametrize("is_required", [True, False])
def test_grammars_accept_what_templates_write(kind: str, is_required: bool) -> None:
    tools = [Tool(name, {}, PARAMETERS, "tools") for name in ("look", "take")]
    answer = Answer(use=ToolUse(tools, is_required=is_required))
    failures: dict[str, object] = {}
    for name, template in parsed():
        voice = template.voice
        # They write an empty response before calls, or a line before reasoning.
        is_odd = is_required and name in ("Kimi-K3", "GLM-4.6")
        if name in WRITTEN_OTHERWISE or is_odd or (voice.calls.is_single and kind == "two calls"):
            continue
        text, is_thinking = written(template, ANSWERS[kind])
        source = grammar_of(answer, voice, {}, is_thinking)
        assert source
        rest = Accepting(source, {}).rest_of(text)
        if rest is None or "look" in rest or "take" in rest:
            failures[name] = text, rest
    assert not failures
