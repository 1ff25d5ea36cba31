"""How a model answers, learned from templates written for these tests; what can't be learned."""

import logging

import msgspec
import pytest
from answering import ANSWERS, read, written
from chat_templates import template
from hypothesis import given
from hypothesis import strategies as st
from learning import CONTENT, EACH, END, FRAME, HERMES, TAGS, learned

from localinfra.chat.formats.form import NAME, ReasoningMarks, Voice
from localinfra.chat.formats.generic import GENERIC
from localinfra.chat.messages import FunctionCall, Json, Message, ToolCall
from localinfra.chat.template import ChatTemplate

# Reasoning

THINK = ReasoningMarks("<think>", "</think>")
THOUGHT = "<think>\n{{ message.reasoning_content }}\n</think>\n\n"


@pytest.mark.parametrize(
    ("says", "begins"),
    [
        ("{% if message.reasoning_content %}" + THOUGHT + "{% endif %}", ""),
        ("{% if message.reasoning_content %}" + THOUGHT + "{% endif %}", "<think>\n"),
        ("<think>{{ message.reasoning_content or '' }}</think>", "<think>"),
        ("{% if message.thinking %}<think>{{ message.thinking }}</think>{% endif %}", ""),
        ("{% if enable_thinking %}" + THOUGHT + "{% endif %}", ""),
        ("", "{% if enable_thinking is false %}<think>\n\n</think>\n{% endif %}"),
        ("{# Write <think> thoughts </think> first. #}", ""),
    ],
    ids=["shown", "prompted", "empty", "field", "enabled", "disabled", "named"],
)
def test_reasoning(says: str, begins: str) -> None:
    marks = msgspec.structs.replace(THINK, keeps_blanks="<think>{{" in says)
    assert learned(says + CONTENT, begins).reasoning == marks
    voice = learned(says + CONTENT + HERMES, begins)
    assert (voice.reasoning, voice.calls, voice.content) == (marks, GENERIC, "")


def test_reasoning_that_is_cut_off_earlier_content() -> None:
    says = "{{ (message.content or '').split('[/REASON]')[-1] }}"
    assert learned(says).reasoning == ReasoningMarks("[REASON]", "[/REASON]")


def test_reasoning_without_a_mark_of_its_own_after_the_prompts_words() -> None:
    says = (
        "{% if message.reasoning_content %}{{ message.reasoning_content }}\n[ANSWER]\n{% endif %}"
    )
    voice = learned(says + CONTENT, begins="My thoughts:\n")
    assert voice.reasoning == ReasoningMarks("My thoughts:", "[ANSWER]", keeps_blanks=True)


# What can't be learned

ENDLESS = "{% for _ in range(99999) %}" * 3 + END * 4


def test_a_template_that_knows_no_tools_gets_the_generic_form() -> None:
    voice = template("{% for message in messages %}{{ message.content }}|{% endfor %}").voice
    assert voice == Voice(GENERIC, takes_tools=False)


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        (EACH + "{{ call.name ~ call.arguments.values() | join }}" + END, "unknown way"),
        (EACH + "{{ call.arguments | tojson ~ call.name }}" + END, "name of each call before"),
        (EACH + "{{ call.name ~ call.arguments | tojson }}" + END, "no beginning"),
        (EACH + "<c>{{ call.name ~ (call.arguments | tojson) * 2 }}</c>" + END, "twice"),
        ("{% for _ in message.tool_calls or [] %}" + ENDLESS, "more than 0.5 s"),
    ],
    ids=["form", "order", "mark", "twice", "time"],
)
def test_other_forms_are_replaced_by_the_generic_one_with_a_warning(
    calls: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        voice = learned(CONTENT + calls)
    assert voice.calls == GENERIC and not voice.writes_calls
    [record] = caplog.records
    assert reason in record.getMessage()


def test_a_template_that_describes_no_tools_is_told_the_form_of_its_calls() -> None:
    source = FRAME.replace("{{- tools | tojson if tools }}", "").replace("BEGINS", "")
    calls = EACH + "<call>{{ call.name }}:{{ call.arguments | tojson }}</call>" + END
    quiet = template(source.replace("SAYS", CONTENT + calls))
    tool: dict[str, Json] = {"type": "function", "function": {"name": "add", "parameters": {}}}
    call = Message("assistant", "", tool_calls=[ToolCall(FunctionCall("add", "{}"), "a")])
    prompt = quiet.render([Message("user", "Hi"), call, Message("user", "So?")], tools=[tool]).text
    assert '<call>FUNCTION:{"ARGUMENT": "VALUE"}</call>' in prompt
    assert '"name":"add"' in prompt and "<|bot|><call>add:{}</call><|end|>" in prompt


PIECES = [
    *(
        "<a>",
        "</a>",
        "[CALL]",
        "[/CALL]",
        "<think>",
        "</think>",
        " ",
        "\n",
        "{{ '{' }}",
        "{{ '}' }}",
        "[",
        "]",
        '"',
        ",",
    ),
    *(
        "{{ call.name }}",
        "{{ call.arguments | tojson }}",
        "{{ call.arguments }}",
        "{{ loop.index }}",
    ),
    *("{{ message.content }}", "{{ message.reasoning_content }}", "{{ message.tool_calls }}"),
    *("{{ key }}", "{{ value }}", "{{ value | tojson }}", "{{ messages }}", "{{ tools }}", "null"),
    *("{{ bos_token }}", "{{ eos_token }}", "{{ message.content.split('</think>')[-1] }}", "7"),
]
pieces = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)


@given(pieces, pieces, pieces, pieces, pieces, pieces)
def test_any_template_can_be_learned_or_is_replaced(
    says: str, begin: str, argument: str, end: str, after: str, begins: str
) -> None:
    calls = says + EACH + begin + TAGS + argument + END + end + END + after
    source = FRAME.replace("SAYS", calls).replace("BEGINS", begins)
    voice = ChatTemplate(source, bos_token="", eos_token="", special_tokens=[]).voice
    assert NAME in voice.calls.before and voice.calls.trigger
    assert (voice.begun + voice.calls.opening + voice.calls.before).find(voice.calls.trigger) >= 0


# Answers come back

SHOWN = {
    "objects in tags": HERMES,
    "a section": """{% for call in message.tool_calls or [] %}{{ '<|calls|>[' if loop.first }}
        {{- '{"' ~ call.function.name ~ '": ' ~ call.function.arguments | tojson ~ '}' }}
        {{- ']<|done|>' if loop.last else ', ' }}{% endfor %}""",
    "names before arguments": EACH
    + "[CALLS]{{ call.name }}[ARGS]{{ call.arguments | tojson }}"
    + END,
    "fences": EACH
    + "{{ '<call>' ~ call.name ~ '\n```json\n' ~ call.arguments | tojson ~ '\n```</call>' }}"
    + END,
}


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("shape", SHOWN)
def test_what_a_template_renders_for_an_answer_is_parsed_into_it(shape: str, kind: str) -> None:
    """However it is cut."""
    thought = "{% if message.reasoning_content %}" + THOUGHT + "{% endif %}"
    source = FRAME.replace("SAYS", thought + CONTENT + SHOWN[shape]).replace("BEGINS", "")
    known, answer = template(source), ANSWERS[kind]
    text, is_thinking = written(known, answer)
    text = text.removesuffix("<|end|>")
    for at in range(len(text)):
        assert read(known.voice, [text[:at], text[at:]], is_thinking) == answer
