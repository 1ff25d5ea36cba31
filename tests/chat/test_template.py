"""Messages → prompt text: roles, system messages, continued answers, features of templates."""

import datetime
import threading
from typing import Any

import pytest
from chat_templates import CHATML, GEMMA, LLAMA, MISTRAL, QWEN, TRIMMING, template

from localinfra.chat.messages import FunctionCall, Message, ToolCall
from localinfra.chat.template import ChatTemplate, TemplateError, check_kwargs
from localinfra.errors import InvalidRequest

SYSTEM = Message("system", "Be brief.")
HI = Message("user", "Hi")
HELLO = Message("assistant", "Hello!")
BYE = Message("user", "Bye")


def text(source: str, *messages: Message, **options: Any) -> str:
    return template(source).render(messages, **options).text


def test_a_conversation_is_rendered_up_to_where_the_answer_begins() -> None:
    assert text(CHATML, SYSTEM, HI) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_without_a_generation_prompt_it_ends_with_the_last_message() -> None:
    assert text(CHATML, HI, add_generation_prompt=False) == "<|im_start|>user\nHi<|im_end|>\n"
    assert text(CHATML, HI, HELLO, add_generation_prompt=False).endswith("Hello!<|im_end|>\n")


def test_templates_of_llama_use_macros_slices_and_todays_date() -> None:
    now = datetime.datetime(2025, 7, 4)
    assert text(LLAMA, HI, HELLO, BYE, now=now) == (
        "<s><|start|>system<|end|>\n\nToday is 04 Jul 2025<|eot_id|>"
        "<|start|>user<|end|>\n\nHi<|eot_id|>"
        "<|start|>assistant<|end|>\n\nHello!<|eot_id|>"
        "<|start|>user<|end|>\n\nBye<|eot_id|>"
        "<|start|>assistant<|end|>\n\n"
    )


def test_templates_of_mistral_use_loop_controls_and_earlier_items() -> None:
    expected = "<s>[INST] Hi[/INST] Hello!</s>[INST] Be brief.\n\nBye[/INST]"
    assert text(MISTRAL, SYSTEM, HI, HELLO, BYE) == expected


def test_templates_of_qwen_write_tools_and_calls_as_json_and_drop_old_reasoning() -> None:
    tool = {"type": "function", "function": {"name": "añadir", "parameters": {"z": 1, "a": 2}}}
    asked = Message("assistant", "", tool_calls=[ToolCall(FunctionCall("add", '{"x": "<"}'))])
    thought = Message("assistant", "<think>\nHm.\n</think>\n\nHello!")
    assert text(QWEN, HI, thought, BYE, asked, tools=[tool], extra={"enable_thinking": False}) == (
        "<|im_start|>system\n# Tools\n"
        '{"type": "function", "function": {"name": "añadir", "parameters": {"z": 1, "a": 2}}}'
        "<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "add", "arguments": {"x": "<"}}\n'
        "</tool_call><|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


# Developer and system messages


def test_a_developer_message_is_a_system_message() -> None:
    assert text(CHATML, Message("developer", "Be brief."), HI) == text(CHATML, SYSTEM, HI)


def test_unless_the_template_knows_developers() -> None:
    source = "{# developer #}{% for message in messages %}{{ message.role }} {% endfor %}"
    assert text(source, Message("developer", ""), HI) == "developer user "


def test_a_system_message_stays_in_place_if_the_template_accepts_it() -> None:
    assert text(CHATML, HI, SYSTEM) == (
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("role", ["system", "developer"])
def test_system_messages_move_to_the_front_if_it_does_not(role: Any) -> None:
    second = Message(role, "Be kind.")
    expected = "<s>[INST] Hi[/INST] Hello!</s>[INST] Be brief.\n\nBe kind.\n\nBye[/INST]"
    assert text(MISTRAL, SYSTEM, HI, HELLO, second, BYE) == expected
    assert text(MISTRAL, HI, HELLO, SYSTEM, second, BYE) == expected


def test_if_no_form_fits_the_error_is_the_templates_own() -> None:
    source = "{{ raise_exception('No ' ~ messages[0].role) }}"
    with pytest.raises(InvalidRequest, match="refuses these messages: No user") as error:
        text(source, HI, SYSTEM, BYE)
    assert error.value.param == "messages"


# Tool calls, in the forms that templates of different models need

CALL = Message("assistant", None, tool_calls=[ToolCall(FunctionCall("add", '{"a":1}'))])


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("(message.content is none) ~ call.arguments | tojson", 'True{"a": 1}'),
        ("message.content + call.arguments | tojson", '{"a": 1}'),
        ("call.arguments | tojson", '{"a": 1}'),
        ("call.arguments.items() | list | length ~ call.arguments | tojson", '1{"a": 1}'),
        ("'args: ' + call.arguments", 'args: {"a":1}'),
        ("message.content + call.arguments", '{"a":1}'),
    ],
)
def test_null_content_and_arguments_are_adapted_to_what_the_template_can_use(
    expression: str, expected: str
) -> None:
    source = (
        "{% for message in messages %}{% if message.tool_calls %}"
        "{% set call = message.tool_calls[0].function %}"
        f"<call>{{{{ call.name }}}}:{{{{ {expression} }}}}</call>"
        "{% else %}{{ message.content }}{% endif %}{% endfor %}"
    )
    assert text(source, HI, CALL) == f"Hi<call>add:{expected}</call>"


# Tools for templates that know none

TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}
RESULTS = [Message("tool", "1", tool_call_id="a"), Message("tool", "2", tool_call_id="b")]


def test_results_of_parallel_calls_are_one_message() -> None:
    prompt = text(CHATML, HI, CALL, *RESULTS, tools=[TOOL])
    assert prompt.count("<|im_start|>user") == 2
    assert "<tool_response>\n1\n</tool_response>\n<tool_response>\n2" in prompt
    assert prompt.endswith("<|im_start|>assistant\n")


def test_without_a_system_message_the_tools_come_first() -> None:
    prompt = text(GEMMA, HI, tools=[TOOL])
    assert '"name":"add"' in prompt and prompt.index("<tools>") < prompt.index("Hi")


def test_a_last_message_with_calls_is_not_continued() -> None:
    assert text(CHATML, HI, CALL).endswith("<|im_start|>assistant\n")


def test_a_result_may_be_empty_but_must_be_given() -> None:
    assert text(CHATML, HI, CALL, Message("tool", None, tool_call_id="a"))
    with pytest.raises(InvalidRequest):
        text(CHATML, HI, CALL, Message("tool", tool_call_id="a"))


# A last assistant message is continued


@pytest.mark.parametrize("source", [CHATML, TRIMMING, QWEN])
def test_a_last_assistant_message_is_left_open(source: str) -> None:
    assert text(source, HI, HELLO).endswith("<|im_start|>assistant\nHello!")


@pytest.mark.parametrize("space", [" ", "\n", " \n\n", "\t"])
def test_its_trailing_space_is_kept_unless_the_template_trims(space: str) -> None:
    half = Message("assistant", "  Hello" + space)
    assert text(CHATML, HI, half).endswith("assistant\n  Hello" + space)
    assert text(TRIMMING, HI, half).endswith("assistant\nHello")


def test_a_template_that_trims_some_space_keeps_the_rest() -> None:
    source = "{{ messages[-1].content.rstrip('\\n') }}\n[end]"
    assert text(source, Message("assistant", "Hello \n")) == "Hello "


@pytest.mark.parametrize("content", ["", " \n"])
def test_an_empty_answer_is_continued_from_its_beginning(content: str) -> None:
    assert text(TRIMMING, HI, Message("assistant", content)).endswith("<|im_start|>assistant\n")


def test_a_message_that_repeats_itself_is_cut_at_its_own_end() -> None:
    again = Message("assistant", "Hello!<|im_end|>\nHello!")
    assert text(CHATML, HI, again).endswith("assistant\nHello!<|im_end|>\nHello!")


def test_reasoning_of_a_continued_message_is_kept_as_the_template_writes_it() -> None:
    half = Message("assistant", "<think>\nHm.\n</think>\n\nHel")
    assert text(QWEN, HI, half).endswith("assistant\n<think>\nHm.\n</think>\n\nHel")


def test_a_tool_call_is_not_continued() -> None:
    assert text(QWEN, HI, CALL).endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_a_template_that_drops_the_message_can_not_continue_it() -> None:
    source = "{% for message in messages if message.role == 'user' %}{{ message.content }}"
    with pytest.raises(InvalidRequest, match="send a user message last"):
        text(source + "{% endfor %}", HI, HELLO)


# Variables of the request


def test_extra_variables_reach_the_template() -> None:
    assert text("{{ reasoning_effort }} {{ other }}", HI, extra={"reasoning_effort": "low"}) == (
        "low "
    )


@pytest.mark.parametrize(
    "name", ["messages", "tools", "add_generation_prompt", "bos_token", "range", "strftime_now"]
)
def test_variables_of_the_server_can_not_be_replaced(name: str) -> None:
    for give in (check_kwargs, lambda extra: text(CHATML, HI, extra=extra)):
        with pytest.raises(InvalidRequest, match=name) as error:
            give({name: 1})
        assert error.value.param == "chat_template_kwargs"


@pytest.mark.parametrize("value", [True, None, "high", 3, 0.5, ["a"], [{"title": "a"}], {"b": 1}])
def test_any_other_argument_may_be_any_json(value: object) -> None:
    check_kwargs({"documents": value, "enable_thinking": value, "of_next_year": value})
    shown = text("{{ documents is not none and documents == other }}", HI, extra={
        "documents": value, "other": value,
    })  # fmt: skip
    assert shown == str(value is not None)


@pytest.mark.parametrize(
    ("source", "reads"),
    [
        ("{{ a }} {% if b is defined and b.c %}{% endif %}", {"a", "b"}),
        ("{% if not date is defined %}{% set date = '1' %}{% endif %}{{ date }}", {"date"}),
        ("{% set own = 1 %}{{ own }}{# hidden #}{{ 'quoted' }}", set()),
        ("{% macro m(x) %}{{ x }}{{ deep }}{% endmacro %}{{ m(1) }}", {"deep"}),
        ("{% for tool in tools or documents %}{{ tool }}{% endfor %}", {"tools", "documents"}),
        ("{% generation %}{{ inside }}{% endgeneration %}", {"inside"}),
        ("{%- set ns = namespace(found=kwarg) -%}{{ ns.found }}", {"kwarg"}),
    ],
)
def test_the_variables_that_a_template_reads_are_known(source: str, reads: set[str]) -> None:
    assert template(source).variables == reads


# What goes wrong


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ nothing.at.all }}", "'nothing' is undefined"),
        ("{{ messages[0].role / 0 }}", "TypeError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ messages | tojson(indent=10**6) }}", "too long"),
        ("{{ raise_exception('a' * 100000) }}", "a{500}$"),
    ],
)
def test_a_failing_template_is_an_error_of_the_request(source: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as error:
        text(source, HI)
    assert error.value.param == "messages"


def test_such_an_error_names_the_remedy() -> None:
    with pytest.raises(InvalidRequest, match=r"chat_template in models\.toml"):
        text("{{ nothing.at.all }}", HI)


@pytest.mark.parametrize(
    "source",
    ["{% if %}", "{{ 'a' | nonsense }}", "{% include 'x' %}", "{% block a %}{% endblock %}", "{{"],
)
def test_an_invalid_template_is_refused_when_the_model_is_loaded(source: str) -> None:
    with pytest.raises(TemplateError, match="the chat template can't be used: "):
        template(source)


def test_threads_render_side_by_side() -> None:
    shared = template(QWEN)
    expected = {name: shared.render([Message("user", name * 50)]).text for name in "abcd"}
    wrong: list[str] = []

    def render(name: str) -> None:
        for _ in range(50):
            if shared.render([Message("user", name * 50)]).text != expected[name]:
                wrong.append(name)

    threads = [threading.Thread(target=render, args=(name,)) for name in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_prompt_may_be_empty() -> None:
    empty = ChatTemplate("", bos_token="", eos_token="", special_tokens=[])
    assert empty.render([HI]).segments == ()


IN_PARTS = """{% for m in messages %}{{ m.role | capitalize }}:
{%- if m.content[0].type == 'text' %} {% endif %}
{%- for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}</s>
{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""


def test_a_template_that_reads_lists_of_parts_alone_gets_them() -> None:
    """SmolVLM's and Idefics3's would show nothing of a text."""
    asked = [Message("system", "Be brief."), Message("user", "Hi <s>"), Message("assistant", "")]
    expected = "System: Be brief.</s>\nUser: Hi <s></s>\nAssistant: </s>\nUser: Go on.</s>\n"
    assert text(IN_PARTS, *asked, Message("user", "Go on.")) == f"{expected}Assistant:"
    continued = [Message("user", "Hi"), Message("assistant", "Well, ")]
    assert text(IN_PARTS, *continued) == "User: Hi</s>\nAssistant: Well, "
