"""Reasoning that clients send back: wherever a template reads it, it is there once."""

from typing import Any

import msgspec
import pytest
from chat_templates import template

from localinfra.chat.answer import parser_of
from localinfra.chat.formats.pieces import Content, Thought, joined
from localinfra.chat.messages import FunctionCall, Message, ToolCall, checked

CALLS = "{% for call in message.tool_calls or [] %}<call>{{ call.function | tojson }}</call>"
CALLS += "{% endfor %}"
TURNS = "{% for message in messages %}<{{ message.role }}>{THOUGHT}{{ message.content or '' }}"
TURNS += CALLS + "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
HI, RESULT = Message("user", "Hi."), Message("tool", "Out.", tool_call_id="c")


def called(content: str | None = None, **thought: Any) -> Message:
    call = ToolCall(FunctionCall("look", "{}"), "c")
    return Message("assistant", content, tool_calls=[call], **thought)


def source(shown: str) -> str:
    return TURNS.replace("{THOUGHT}", shown)


def field(name: str) -> str:
    return source(f"{{% if message.{name} %}}<think>{{{{ message.{name} }}}}</think>{{% endif %}}")


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking", "thought"])
@pytest.mark.parametrize("sent", ["reasoning_content", "reasoning", "thinking"])
def test_it_is_read_under_the_templates_name_whatever_the_clients(name: str, sent: str) -> None:
    prompt = template(field(name)).render([HI, called(**{sent: "Hm."}), RESULT]).text
    assert "<assistant><think>Hm.</think><call>" in prompt and prompt.count("Hm.") == 1


def test_a_template_that_reads_several_names_shows_it_once() -> None:
    both = "{{ message.reasoning_content or '' }}{{ message.thinking or '' }}"
    said = called(reasoning_content="Hm.", thinking="Hm.")
    prompt = template(source(f"<think>{both}</think>")).render([HI, said, RESULT]).text
    assert prompt.count("Hm.") == 1


def test_a_template_may_want_it_as_a_block() -> None:
    """Mistral's reasoning models."""
    shown = """{% if message.content is string or not message.content %}{{ message.content or '' }}
    {%- else %}{% for part in message.content %}
    {{- '[THINK]' ~ part.thinking ~ '[/THINK]' if part.type == 'thinking' else part.text }}
    {%- endfor %}{% endif %}"""
    blocks = template(source("").replace("{{ message.content or '' }}", shown))
    said = called("Said.", reasoning_content="Hm.")
    assert "<assistant>[THINK]Hm.[/THINK]Said.<call>" in blocks.render([HI, said, RESULT]).text
    continued = blocks.render([HI, Message("assistant", "Sa", reasoning="Hm.")])
    assert continued.is_continued and continued.text.endswith("<assistant>[THINK]Hm.[/THINK]Sa")


def test_a_template_without_a_place_has_it_in_the_content_with_the_models_marks() -> None:
    """SmolLM3: the prompt opens the reasoning, the history is what the model wrote."""
    thinker = template(source("") + "{% if add_generation_prompt %}<think>\n{% endif %}</think>")
    assert thinker.voice.reasoning
    prompt = thinker.render([HI, called("Said.", reasoning="Hm.\n"), RESULT])
    assert "<assistant><think>\nHm.\n</think>\n\nSaid.<call>" in prompt.text


def test_marks_within_the_content_stay_control_tokens_but_not_a_typed_one() -> None:
    thinker = template(source("") + "{% if add_generation_prompt %}<think>\n{% endif %}</think>")
    said = called("Said.", reasoning="Hm</think>.")
    segments = thinker.render([HI, said, RESULT]).segments
    assert [part.text for part in segments if not part.is_template] == ["</think>"]


@pytest.mark.parametrize("thought", ["Hm.", "Hm.\n", "\nHm.\n\n"])
def test_blanks_that_the_template_writes_are_not_doubled(thought: str) -> None:
    shown = "{% if message.reasoning_content %}<think>\n{{ message.reasoning_content }}\n</think>"
    prompt = template(source(shown + "\n\n{% endif %}"))
    text = prompt.render([HI, called(reasoning_content=thought), RESULT]).text
    assert "<assistant><think>\nHm.\n</think>\n\n<call>" in text


def test_other_blanks_stay_as_the_model_wrote_them() -> None:
    said = called(reasoning_content="Hm.\n")
    text = template(field("reasoning_content")).render([HI, said, RESULT]).text
    assert "<think>Hm.\n</think>" in text


@pytest.mark.parametrize("blanks", ["", " ", "\n"])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_blanks_of_the_model_come_back_where_the_template_writes_none(
    blanks: str, size: int
) -> None:
    thinker = template(field("reasoning_content"))
    answer = f"<think>{blanks}Hm.\n</think>Said."
    parser = parser_of(thinker.voice, is_thinking=False)
    assert parser
    parts = [answer[at : at + size] for at in range(0, len(answer), size)]
    pieces = [piece for part in parts for piece in parser.push(part)] + parser.finish()
    thought, said = joined(pieces)
    assert isinstance(thought, Thought) and isinstance(said, Content)
    message = Message("assistant", said.text, reasoning_content=thought.text)
    prompt = thinker.render([HI, message, HI]).text
    assert prompt.startswith(thinker.render([HI]).text + answer)


def test_reasoning_that_a_client_left_in_the_content_is_taken_out_of_it() -> None:
    said = Message("assistant", "<think>\nHm.\n</think>\n\nSaid.")
    for name in ("reasoning_content", "thinking"):
        prompt = template(field(name)).render([HI, said, HI]).text
        assert "<assistant><think>Hm.</think>Said.<user>" in prompt
    twice = msgspec.structs.replace(said, reasoning_content="Hm.")
    assert template(field("thinking")).render([HI, twice, HI]).text == prompt


def test_an_answer_to_be_continued_stays_as_it_is() -> None:
    said = Message("assistant", "<think>Hm.</think>Sa")
    assert template(field("thinking")).render([HI, said]).text.endswith("<think>Hm.</think>Sa")


def test_a_text_goes_before_reasoning_and_a_call_if_the_template_refuses_all_three() -> None:
    """gpt-oss."""
    refuses = "{% if message.tool_calls and message.content and message.thinking %}"
    refuses += "{{ raise_exception('not both') }}{% endif %}"
    strict = template(
        field("thinking").replace("<{{ message.role }}>", "<{{ message.role }}>" + refuses)
    )
    said = called("Said.", reasoning_content="Hm.", reasoning="Hm.")
    prompt = strict.render([HI, said, RESULT]).text
    assert "<assistant>Said.<assistant><think>Hm.</think><call>" in prompt


@pytest.mark.parametrize(
    ("fields", "thought"),
    [
        ({"reasoning": "Hm."}, "Hm."),
        ({"thinking": "Hm."}, "Hm."),
        ({"reasoning_content": "", "reasoning": "Hm."}, "Hm."),
        ({"reasoning_content": "Hm.", "reasoning": "Hm.", "thinking": "Hm."}, "Hm."),
        ({"reasoning_content": ""}, ""),
        (
            {"reasoning_details": [
                {"type": "reasoning.text", "text": "Hm.", "signature": None},
                {"type": "reasoning.encrypted", "data": "x"},
                {"type": "reasoning.summary", "summary": "So."}]},
            "Hm.\nSo.",
        ),
        ({"thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "x"}]}, "Hm."),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]}, "Hm."),
        ({"content": [{"type": "reasoning", "text": "Hm."}]}, "Hm."),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}, "reasoning": {"effort": 1}}, None),
        ({"reasoning_details": [[[[[[[["deep"]]]]]]]], "thinking": 3, "reasoning": True}, None),
    ],
)  # fmt: skip
def test_it_may_be_sent_by_any_name(fields: dict[str, Any], thought: str | None) -> None:
    sent = {"role": "assistant", "content": "Said.", **fields}
    [message] = checked([msgspec.convert(sent, Message)])
    assert message.reasoning_content == thought
    assert message.content == ("Said." if "content" not in fields else "")
