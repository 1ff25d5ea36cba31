"""Writes calls in any form, as a chat template would; and a form of each shape."""

import json
from typing import Any

import msgspec

from localinfra.chat.formats.form import (
    ID,
    INDEX,
    KEY,
    NAME,
    TYPE,
    CallForm,
    Layout,
    Members,
    in_order,
)
from localinfra.chat.formats.generic import GENERIC
from localinfra.chat.messages import Json

Call = tuple[str, dict[str, Any]]
ALL_BUT_TEXT = ("number", "integer", "boolean", "null", "object", "array")
P = "]<]minimax[>["  # MiniMax-M3 writes it before each tag

FORMS = {
    "json": GENERIC,
    "lines": CallForm(  # Qwen3-Coder
        trigger="<tool_call>",
        before=f"<tool_call>\n<function={NAME}>\n",
        after="</function>\n</tool_call>",
        separator="\n",
        members=Members(
            f"<parameter={KEY}>\n", "\n</parameter>\n", words=("True", "False", "None")
        ),
    ),
    "python-tags": CallForm(  # Seed-OSS
        trigger="<seed:tool_call>",
        before=f"<seed:tool_call>\n<function={NAME}>\n",
        after="</function>\n</seed:tool_call>",
        separator="\n",
        members=Members(
            f"<parameter={KEY}>", "</parameter>\n",
            words=("True", "False", "None"), literals="python",
        ),
    ),
    "pairs": CallForm(  # GLM-4.7
        trigger="<tool_call>",
        before=f"<tool_call>{NAME}",
        after="</tool_call>",
        members=Members(f"<arg_key>{KEY}</arg_key><arg_value>", "</arg_value>"),
    ),
    "pairs-on-lines": CallForm(  # GLM-4.6
        trigger="<tool_call>",
        before=f"<tool_call>{NAME}\n",
        after="</tool_call>",
        separator="\n",
        members=Members(f"<arg_key>{KEY}</arg_key>\n<arg_value>", "</arg_value>\n"),
    ),
    "within-a-list": CallForm(  # MiniMax-M2
        trigger="<minimax:tool_call>",
        opening="<minimax:tool_call>\n",
        before=f'<invoke name="{NAME}">\n',
        after="</invoke>\n",
        closing="</minimax:tool_call>",
        members=Members(f'<parameter name="{KEY}">', "</parameter>\n"),
    ),
    "nested": CallForm(  # MiniMax-M3
        trigger=f"{P}<tool_call>",
        opening=f"{P}<tool_call>\n",
        before=f'{P}<invoke name="{NAME}">',
        after=f"{P}</invoke>\n",
        closing=f"{P}</tool_call>",
        members=Members(f"{P}<{KEY}>", f"{P}</{KEY}>", item="item"),
    ),
    "typed": CallForm(  # Kimi-K3
        trigger="<|open|>tools<|sep|>",
        opening="<|open|>tools<|sep|>",
        before=f'<|open|>call tool="{NAME}" index="{INDEX}"<|sep|>',
        after="<|close|>call<|sep|>",
        closing="<|close|>tools<|sep|>",
        members=Members(
            f'<|open|>argument key="{KEY}" type="{TYPE}"<|sep|>',
            "<|close|>argument<|sep|>",
            types={kind: kind for kind in ("string", *ALL_BUT_TEXT)} | {"integer": "number"},
        ),
    ),
    "text-or-not": CallForm(  # DeepSeek-V3.2
        trigger="<｜DSML｜function_calls>",
        opening="<｜DSML｜function_calls>\n",
        before=f'<｜DSML｜invoke name="{NAME}">\n',
        after="</｜DSML｜invoke>\n",
        closing="</｜DSML｜function_calls>",
        members=Members(
            f'<｜DSML｜parameter name="{KEY}" string="{TYPE}">',
            "</｜DSML｜parameter>\n",
            types={"string": "true"} | dict.fromkeys(ALL_BUT_TEXT, "false"),
        ),
    ),
    "bare": CallForm(  # Gemma 4
        trigger="<|tool_call>",
        before=f"<|tool_call>call:{NAME}{{",
        after="}<tool_call|>",
        members=Members(
            f"{KEY}:", "", ",",
            quotes=('<|"|>', '<|"|>'), words=("true", "false", "None"), literals="bare",
            order="caseless",
        ),
        layout=Layout(",", ":", order="caseless"),
    ),
    "python": CallForm(  # LFM2.5
        trigger="<|tool_call_start|>",
        opening="<|tool_call_start|>[",
        before=f"{NAME}(",
        after=")",
        separator=", ",
        closing="]<|tool_call_end|>",
        members=Members(
            f"{KEY}=", "", ", ",
            quotes=("'", "'"), words=("True", "False", "None"), literals="python",
            json_kinds=frozenset(["object"]),
        ),
    ),
    "cdata": CallForm(  # MiniCPM5
        trigger="<function name=",
        before=f'<function name="{NAME}">',
        after="</function>",
        separator="\n",
        members=Members(
            f'<param name="{KEY}">', "</param>",
            quotes=("<![CDATA[", "]]>"), quotes_always=False,
            words=("True", "False", "None"), literals="python",
        ),
    ),
    "named-twice": CallForm(  # muse-glimmer
        trigger="<|start|>assistant to=",
        before=f'<|start|>assistant to={NAME}<|message|><calls>\n<invoke name="{NAME}">\n',
        after="</invoke>\n</calls>",
        separator="<|eom|>",
        members=Members(f'<parameter name="{KEY}">', "</parameter>\n"),
    ),
    "json-with-ids": CallForm(  # Mistral Nemo
        trigger="[TOOL_CALLS]",
        opening="[TOOL_CALLS][",
        before=f'{{"name": "{NAME}", "arguments": ',
        after=f', "id": "{ID}"}}',
        separator=", ",
        closing="]",
    ),
    "json-after-an-id": CallForm(  # Kimi-K2
        trigger="<|tool_calls_section_begin|>",
        opening="<|tool_calls_section_begin|>",
        before=f"<|tool_call_begin|>functions.{NAME}:{INDEX}<|tool_call_argument_begin|>",
        after="<|tool_call_end|>",
        closing="<|tool_calls_section_end|>",
    ),
    "json-with-numbers": CallForm(  # Command R7B
        trigger="<|START_ACTION|>",
        opening="<|START_ACTION|>[\n    ",
        before=f'{{"tool_call_id": "{INDEX}", "tool_name": "{NAME}", "parameters": ',
        after="}",
        separator=",\n    ",
        closing="\n]<|END_ACTION|>",
    ),
    "json-on-lines": CallForm(  # Command R+
        trigger="Action:",
        opening="Action:\n```json\n[\n    ",
        before=f'{{\n        "tool_name": "{NAME}",\n        "parameters": ',
        after="\n    }",
        separator=",\n    ",
        closing="\n]```",
        layout=Layout(is_on_lines=True),
    ),
    "json-in-ascii": msgspec.structs.replace(GENERIC, layout=Layout(is_ascii=True)),  # Reka
    "sorted-json": msgspec.structs.replace(GENERIC, layout=Layout(",", ":", order="sorted")),
    "json-in-tags": CallForm(
        trigger="<call",
        before=f'<call name="{NAME}">\n',
        after="</call>",
        separator="\n",
        members=Members(
            f"<{KEY}>", f"</{KEY}>\n",
            quotes=('"', '"'), has_escapes=True, words=("True", "False", "None"),
        ),
        layout=Layout(is_ascii=True),
    ),
    "python-texts": CallForm(
        trigger="[calls:",
        opening="[calls: ",
        before=f"{NAME}(",
        after=")",
        separator=", ",
        closing="]",
        members=Members(
            f"{KEY}=", "", ", ",
            quotes=("'", "'"), words=("True", "False", "None"), literals="python", has_escapes=True,
        ),
    ),
}  # fmt: skip


def written(form: CallForm, *calls: Call) -> str:
    """The calls as the model's template writes them."""
    texts = []
    for at, (name, arguments) in enumerate(calls):
        before, after = (
            mark.replace(NAME, name).replace(ID, f"abcdefgh{at}").replace(INDEX, str(at))
            for mark in (form.before, form.after)
        )
        texts.append(before + inside(form, arguments) + after)
    return form.opening + form.separator.join(texts) + form.closing


def inside(form: CallForm, arguments: dict[str, Json]) -> str:
    if form.members is None:
        return json_text(form.layout, arguments)
    names = in_order(arguments, form.members.order)
    return form.members.separator.join(member(form, name, arguments[name]) for name in names)


def member(form: CallForm, name: str, value: Json) -> str:
    """An argument, or what is written like one."""
    assert form.members
    members = form.members
    text = argument_text(members, value) if isinstance(value, str) else plain(form, value)
    kind = members.types.get(kind_of(value), "")
    before, after = (
        mark.replace(KEY, name).replace(TYPE, kind) for mark in (members.before, members.after)
    )
    return before + text + after


def argument_text(members: Members, value: str) -> str:
    if members.has_escapes:
        return repr(value) if members.literals == "python" else json.dumps(value)
    is_quoted = members.quotes_always or "<" in value
    return value.join(members.quotes) if is_quoted else value


def plain(form: CallForm, value: Json) -> str:
    """Of another type than text."""
    assert form.members
    members = form.members
    if value is None or isinstance(value, bool):
        return members.words[2 if value is None else 1 - value]
    if members.item and isinstance(value, dict):
        return "".join(member(form, *each) for each in value.items())
    if members.item and isinstance(value, list):
        return "".join(member(form, members.item, each) for each in value)
    if members.literals == "bare":
        return bare(form, value)
    is_json = members.literals == "json" or kind_of(value) in members.json_kinds
    return json_text(form.layout, value) if is_json else repr(value)


def bare(form: CallForm, value: Json) -> str:
    layout = form.layout
    if isinstance(value, dict):
        names = in_order(value, layout.order)
        pairs = [f"{name}{layout.colon}{bare(form, value[name])}" for name in names]
        return "{" + layout.comma.join(pairs) + "}"
    if isinstance(value, list):
        return "[" + layout.comma.join(bare(form, each) for each in value) + "]"
    assert form.members
    if value is None or isinstance(value, bool):
        return plain(form, value)
    return value.join(form.members.quotes) if isinstance(value, str) else json.dumps(value)


def json_text(layout: Layout, value: Json) -> str:
    return json.dumps(
        value,
        ensure_ascii=layout.is_ascii,
        indent=4 if layout.is_on_lines else None,
        separators=("," if layout.is_on_lines else layout.comma, layout.colon),
        sort_keys=layout.order == "sorted",
    )


def kind_of(value: Json) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    kinds = {str: "string", int: "integer", float: "number", list: "array", dict: "object"}
    return kinds[type(value)]


def schema_of(value: Json) -> dict[str, Json]:
    """A schema that this value has, and no value of another type."""
    schema: dict[str, Json] = {"type": kind_of(value)}
    if isinstance(value, dict):
        schema["properties"] = {key: schema_of(each) for key, each in value.items()}
    if isinstance(value, list) and value:
        schema["items"] = {"anyOf": [schema_of(each) for each in value]}
    return schema
