"""Templates written for these tests, one for each way to write calls → the learned description."""

from chat_templates import template
from learning import CONTENT, EACH, END, FRAME, HERMES, TAGS, learned

from localinfra.chat.formats.form import (
    ID,
    INDEX,
    KEY,
    NAME,
    TYPE,
    CallForm,
    Layout,
    Members,
    ReasoningMarks,
)
from localinfra.chat.formats.generic import GENERIC
from localinfra.chat.messages import FunctionCall, Message, ToolCall


def form(calls: str) -> CallForm:
    """Of a template that writes calls after the content."""
    voice = learned(CONTENT + calls)
    assert voice.takes_tools and voice.writes_calls
    return voice.calls


def members(argument: str) -> Members:
    """Of a template that writes `argument` for `key` and `value`."""
    calls = EACH + "<call>{{ call.name }}\n" + TAGS + argument + END + "</call>" + END
    found = form(calls).members
    assert found
    return found


def test_objects_in_tags() -> None:
    assert form(HERMES) == GENERIC


def test_a_list_of_objects_with_ids() -> None:
    calls = """{% if message.tool_calls %}{{ '[TOOL_CALLS][' }}{% for call in message.tool_calls %}
        {%- if call.id | length != 9 %}{{ raise_exception('Nine letters!') }}{% endif %}
        {{- '{"name": "' ~ call.function.name ~ '", "arguments": ' }}
        {{- call.function.arguments | tojson ~ ', "id": "' ~ call.id ~ '"}' }}
        {{- ', ' if not loop.last }}{% endfor %}]{% endif %}"""
    assert form(calls) == CallForm(
        trigger="[TOOL_CALLS]",
        opening="[TOOL_CALLS][",
        before=f'{{"name": "{NAME}", "arguments": ',
        after=f', "id": "{ID}"}}',
        separator=", ",
        closing="]",
        has_short_ids=True,
    )


def test_names_as_keys_of_objects() -> None:
    calls = """{% for call in message.tool_calls or [] %}{{ '<|calls|>[' if loop.first }}
        {{- '{"' ~ call.function.name ~ '": ' ~ call.function.arguments | tojson ~ '}' }}
        {{- ']<|done|>' if loop.last else ', ' }}{% endfor %}"""
    assert form(calls) == CallForm(
        trigger="<|calls|>",
        opening="<|calls|>[",
        before=f'{{"{NAME}": ',
        after="}",
        separator=", ",
        closing="]<|done|>",
    )


def test_names_with_numbers_in_a_section() -> None:
    calls = """{% for call in message.tool_calls or [] %}{{ '<|section|>' if loop.first }}
        {{- '<|call|>functions.' ~ call.function.name ~ ':' ~ loop.index0 ~ '<|args|>' }}
        {{- call.function.arguments | tojson ~ '<|call_end|>' }}
        {{- '<|section_end|>' if loop.last }}{% endfor %}"""
    assert form(calls) == CallForm(
        trigger="<|section|>",
        opening="<|section|>",
        before=f"<|call|>functions.{NAME}:{INDEX}<|args|>",
        after="<|call_end|>",
        closing="<|section_end|>",
    )


def test_bare_objects_of_which_a_message_has_one() -> None:
    calls = """{% if message.tool_calls | length > 1 %}{{ raise_exception('One!') }}{% endif %}
        {%- for call in message.tool_calls or [] %}{{ '{"name": "' ~ call.function.name }}
        {{- '", "parameters": ' ~ call.function.arguments | tojson ~ '}' }}{% endfor %}"""
    assert form(calls) == CallForm(
        trigger="{",
        before=f'{{"name": "{NAME}", "parameters": ',
        after="}",
        only_at_start=True,
        is_single=True,
    )


def test_calls_in_messages_without_content_and_arguments_as_text() -> None:
    says = """{% if message.content is none %}{% for call in message.tool_calls %}
        {{- '<calls>' if loop.first else '\n' }}{{ '<call>' + call['type'] + '<sep>' }}
        {{- call.function.name + '\n' + call.function.arguments + '</call>' }}
        {{- '</calls>' if loop.index == 2 }}{% endfor %}
        {%- else %}{{ message.content }}{% endif %}"""
    assert learned(says).calls == CallForm(
        trigger="<calls>",
        opening="<calls>",
        before=f"<call>function<sep>{NAME}\n",
        after="</call>",
        separator="\n",
        closing="</calls>",
        has_open_end=True,
    )


def test_another_role_before_calls() -> None:
    calls = """{% if message.tool_calls %}{{ '<|end|>\nfunction call<|sep|>\n{"name": "' }}
        {{- message.tool_calls[0].function.name ~ '", "arguments": ' }}
        {{- message.tool_calls[0].function.arguments | tojson ~ '}' }}{% endif %}"""
    assert form(calls) == CallForm(
        trigger="<|end|>\nfunction",
        before=f'<|end|>\nfunction call<|sep|>\n{{"name": "{NAME}", "arguments": ',
        after="}",
        is_single=True,
    )


def test_tags_for_each_argument() -> None:
    calls = (
        EACH
        + "{{ '\n<tool_call>\n<function=' ~ call.name ~ '>\n' }}"
        + TAGS
        + "{{ '<parameter=' ~ key ~ '>\n' }}"
        + "{{ value if value is string or value is not iterable else value | tojson }}"
        + "{{ '\n</parameter>\n' }}{% endfor %}</function>\n</tool_call>"
        + END
    )
    assert form(calls) == CallForm(
        trigger="<tool_call>",
        before=f"<tool_call>\n<function={NAME}>\n",
        after="</function>\n</tool_call>",
        separator="\n",
        members=Members(
            before=f"<parameter={KEY}>\n",
            after="\n</parameter>\n",
            words=("True", "False", "None"),
        ),
    )


def test_tags_for_keys_and_for_values() -> None:
    argument = """{{ '<key>' ~ key ~ '</key>\n<value>' }}
        {{- value if value is string else value | tojson }}{{ '</value>\n' }}"""
    assert members(argument) == Members(f"<key>{KEY}</key>\n<value>", "</value>\n")


def test_types_in_tags() -> None:
    argument = """{{ '<arg name="' ~ key ~ '" string="' ~ (value is string) | tojson ~ '">' }}
        {{- value if value is string else value | tojson }}</arg>"""
    kinds = ("number", "integer", "boolean", "null", "object", "array")
    assert members(argument) == Members(
        before=f'<arg name="{KEY}" string="{TYPE}">',
        after="</arg>",
        types={"string": "true"} | dict.fromkeys(kinds, "false"),
    )


def test_pythons_values() -> None:
    assert members("<arg {{ key }}>{{ value }}</arg>") == Members(
        before=f"<arg {KEY}>",
        after="</arg>",
        words=("True", "False", "None"),
        literals="python",
    )


def test_values_that_are_quoted_only_where_xml_needs_it() -> None:
    argument = """<arg {{ key }}>
        {%- if value is string and '<' in value %}{{ '<![CDATA[' ~ value ~ ']]>' }}
        {%- else %}{{ value if value is string else value | tojson }}{% endif %}</arg>"""
    found = members(argument)
    assert found.quotes == ("<![CDATA[", "]]>") and not found.quotes_always


def test_texts_as_json() -> None:
    assert members("<arg {{ key }}>{{ value | tojson }}</arg>") == Members(
        before=f"<arg {KEY}>", after="</arg>", quotes=('"', '"'), has_escapes=True
    )


def test_the_layout_of_json() -> None:
    def layout(options: str) -> Layout:
        written = HERMES.replace("tojson ~", f"tojson({options}) ~")
        return form(written).layout

    assert layout("indent=2") == Layout(is_on_lines=True)
    assert layout("ensure_ascii=true") == Layout(is_ascii=True)
    assert layout("separators=(',', ':'), sort_keys=true") == Layout(",", ":", order="sorted")


def test_objects_as_json_beside_pythons_lists() -> None:
    found = members("<arg {{ key }}>{{ value | tojson if value is mapping else value }}</arg>")
    assert found.literals == "python" and found.json_kinds == {"object"}


def test_calls_as_in_python() -> None:
    calls = """{% for call in message.tool_calls or [] %}{{ '<|call|>[' if loop.first }}
        {{- call.function.name ~ '(' }}
        {%- for key, value in call.function.arguments.items() %}{{ key ~ '=' }}
            {{- "'" ~ value ~ "'" if value is string else value }}{{ ', ' if not loop.last }}
        {%- endfor %}{{ ')' ~ (']<|call_end|>' if loop.last else ', ') }}{% endfor %}"""
    assert form(calls) == CallForm(
        trigger="<|call|>",
        opening="<|call|>[",
        before=f"{NAME}(",
        after=")",
        separator=", ",
        closing="]<|call_end|>",
        members=Members(
            before=f"{KEY}=",
            after="",
            separator=", ",
            quotes=("'", "'"),
            words=("True", "False", "None"),
            literals="python",
        ),
    )


BARE = """
{%- macro bare(value) %}
    {%- if value is string %}{{ '<|"|>' ~ value ~ '<|"|>' }}
    {%- elif value is mapping %}{{ '{' }}
        {%- for key, inner in value | dictsort %}{{ key ~ ':' ~ bare(inner) }}
            {{- ',' if not loop.last }}{% endfor %}{{ '}' }}
    {%- elif value is sequence %}[{% for inner in value %}{{ bare(inner) }}
            {{- ',' if not loop.last }}{% endfor %}]
    {%- else %}{{ value | tojson }}{% endif %}
{%- endmacro %}"""


def test_objects_without_quoted_keys() -> None:
    calls = BARE + EACH + "<|call>call:{{ call.name ~ bare(call.arguments) }}<call|>" + END
    assert form(calls) == CallForm(
        trigger="<|call>",
        before=f"<|call>call:{NAME}{{",
        after="}<call|>",
        members=Members(
            before=f"{KEY}:",
            after="",
            separator=",",
            quotes=('<|"|>', '<|"|>'),
            literals="bare",
            order="caseless",
        ),
        layout=Layout(",", ":", order="caseless"),
    )


NESTED = """
{%- macro nested(value) %}
    {%- if value is mapping %}{% for key, inner in value.items() %}
        {{- '|<' ~ key ~ '>' ~ nested(inner) ~ '|</' ~ key ~ '>' }}{% endfor %}
    {%- elif value is iterable and value is not string %}{% for inner in value %}
        {{- '|<item>' ~ nested(inner) ~ '|</item>' }}{% endfor %}
    {%- else %}{{ value if value is string else value | tojson }}{% endif %}
{%- endmacro %}"""


def test_nested_tags() -> None:
    calls = (
        NESTED + EACH + '|<call name="{{ call.name }}">{{ nested(call.arguments) }}|</call>\n' + END
    )
    found = form(calls)
    assert found.members == Members(f"|<{KEY}>", f"|</{KEY}>", item="item")
    assert (found.before, found.after) == (f'|<call name="{NAME}">', "|</call>")


def test_null_as_an_item_where_it_is_no_argument() -> None:
    calls = NESTED.replace("else %}{{ value if", "elif value is not none %}{{ value if")
    calls = calls.replace("value.items() %}", "value.items() if inner is not none %}")
    calls += EACH + '|<call name="{{ call.name }}">{{ nested(call.arguments) }}|</call>\n' + END
    found = form(calls).members
    assert found and found.words == ("true", "false", "")


def test_a_form_that_is_only_described_to_the_model() -> None:
    told = "{% if tools %}Call tools only with <|tool_call|> and a JSON list of calls.{% endif %}"
    found = template(told + FRAME.replace("SAYS", CONTENT).replace("BEGINS", ""))
    voice = found.voice
    assert voice.takes_tools and not voice.writes_calls
    assert voice.calls == CallForm(
        trigger="<|tool_call|>",
        opening="<|tool_call|>[",
        before=f'{{"name": "{NAME}", "arguments": ',
        after="}",
        separator=", ",
        closing="]",
    )
    call = ToolCall(FunctionCall("f", '{"a": 1}'), "id1")
    messages = [Message("user", "Hi"), Message("assistant", None, tool_calls=[call])]
    shown = found.render(messages, add_generation_prompt=False).text
    assert '<|bot|><|tool_call|>[{"name": "f", "arguments": {"a": 1}}]<|end|>' in shown


def test_a_message_for_each_call() -> None:
    says = """{% for call in message.tool_calls or [] %}
        {{- '<|bot|>' if not loop.first }}{{ ' to=' ~ call.function.name ~ '<|message|>' }}
        {{- call.function.arguments | tojson }}{{ '<|next|>' if not loop.last }}{% endfor %}
        {%- if not message.tool_calls %}{{ ' to=user<|message|>' ~ message.content }}{% endif %}"""
    voice = learned(says)
    assert (voice.begun, voice.content) == ("<|bot|>", "<|bot|> to=user<|message|>")
    assert voice.calls == CallForm(
        trigger="<|bot|> to=",
        before=f"<|bot|> to={NAME}<|message|>",
        after="",
        separator="<|next|>",
    )


def test_a_mark_that_the_prompt_begins() -> None:
    says = """{% if message.content %}{{ '>>>all\n' ~ message.content }}{% endif %}
        {%- for call in message.tool_calls or [] %}{{ '>>>' ~ call.function.name ~ '\n' }}
        {{- call.function.arguments | tojson }}{% endfor %}"""
    voice = learned(says, begins=">>>")
    assert (voice.begun, voice.content) == (">>>", ">>>all\n")
    assert voice.calls == CallForm(trigger=">>>", before=f">>>{NAME}\n", after="")


def test_content_between_marks_before_calls() -> None:
    says = """{{ '<|open|>think<|sep|>' ~ (message.reasoning_content or '') }}
        {{- '<|close|>think<|sep|><|open|>response<|sep|>' ~ (message.content or '') }}
        {{- '<|close|>response<|sep|>' }}{% if message.tool_calls %}<|open|>tools<|sep|>
        {%- for call in message.tool_calls %}{{ '<|open|>call name="' ~ call.function.name }}
        {{- '" index="' ~ loop.index ~ '"<|sep|>' ~ call.function.arguments | tojson }}
        {{- '<|close|>call<|sep|>' }}{% endfor %}<|close|>tools<|sep|>{% endif %}
        {{- '<|close|>message<|sep|>' }}"""
    voice = learned(says, begins="<|open|>think<|sep|>")
    assert voice.content_end == "<|close|>response<|sep|>"
    assert voice.reasoning == ReasoningMarks(
        "<|open|>think<|sep|>", "<|close|>think<|sep|><|open|>response<|sep|>", keeps_blanks=True
    )
    assert voice.calls == CallForm(
        trigger="<|open|>tools",
        opening="<|open|>tools<|sep|>",
        before=f'<|open|>call name="{NAME}" index="{INDEX}"<|sep|>',
        after="<|close|>call<|sep|>",
        closing="<|close|>tools<|sep|>",
    )


def test_content_with_marks_that_calls_do_not_stand_beside() -> None:
    says = (
        "{% if message.tool_calls %}<|ACT|>"
        + HERMES
        + "<|/ACT|>{% else %}<|SAY|>{{ message.content }}<|/SAY|>{% endif %}"
    )
    voice = learned(says)
    assert (voice.content, voice.content_end) == ("<|SAY|>", "<|/SAY|>")
    assert (voice.calls.opening, voice.calls.closing) == ("<|ACT|>\n", "<|/ACT|>")


def test_another_end_of_turns_with_calls_is_no_part_of_them() -> None:
    source = FRAME.replace(
        "'<|end|>' }}{% endif", "'<|wait|>' if message.tool_calls else '<|end|>' }}{% endif"
    )
    voice = template(source.replace("SAYS", CONTENT + HERMES).replace("BEGINS", "")).voice
    assert voice.calls == GENERIC
