"""Writes calls in any form, as a chat template would; and a form of each shape."""

import json
from typing import Any

from localinfra.chat.formats.form import ID, INDEX, KEY, NAME, TYPE, CallForm, Members

ALL_BUT_TEXT = ("number", "integer", "boolean", "null", "object", "array")
P = "]<]minimax[>["  # MiniMax-M3 writes it before each tag

FORMS = {
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
        ),
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
        ),
    ),
    "cdata": CallForm(  # MiniCPM5
        trigger="<function name=",
        before=f'<function name="{NAME}">',
        after="</function>",
        separator="\n",
        members=Members(
            f'<param name="{KEY}">', "</param>",
            quotes=("<![CDATA[", "]]>"), words=("True", "False", "None"), literals="python",
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
}  # fmt: skip


def written(form: CallForm, calls: list[tuple[str, dict[str, Any]]]) -> str:
    """The calls as the model's template writes them."""
    texts = []
    for at, (name, arguments) in enumerate(calls):
        before, after = (
            mark.replace(NAME, name).replace(ID, f"abcdefgh{at}").replace(INDEX, str(at))
            for mark in (form.before, form.after)
        )
        texts.append(before + written_arguments(form, arguments) + after)
    return form.opening + form.separator.join(texts) + form.closing


def written_arguments(form: CallForm, arguments: dict[str, Any]) -> str:
    if form.members is None:
        return json.dumps(arguments, ensure_ascii=False)
    members = form.members
    return members.separator.join(member(key, value, members) for key, value in arguments.items())


def member(key: str, value: Any, members: Members) -> str:
    kind = kind_of(value)
    before = members.before.replace(KEY, key).replace(TYPE, members.types.get(kind, ""))
    return before + plain(value, members) + members.after.replace(KEY, key)


def plain(value: Any, members: Members) -> str:
    if isinstance(value, str):
        return members.quotes[0] + value + members.quotes[1]
    if isinstance(value, dict | list) and members.item:
        pairs = value.items() if isinstance(value, dict) else [(members.item, v) for v in value]
        return "".join(member(key, each, members) for key, each in pairs)
    if members.literals == "bare":
        return bare(value, members)
    if value is None or isinstance(value, bool):
        return members.words[2 if value is None else 1 - value]
    return repr(value) if members.literals == "python" else json.dumps(value, ensure_ascii=False)


def bare(value: Any, members: Members) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{bare(each, members)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(bare(each, members) for each in value) + "]"
    if value is None or isinstance(value, bool):
        return members.words[2 if value is None else 1 - value]
    return plain(value, members) if isinstance(value, str) else json.dumps(value)


def kind_of(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    kinds = {str: "string", int: "integer", float: "number", list: "array", dict: "object"}
    return kinds[type(value)]


def schema_of(value: Any) -> dict[str, Any]:
    """A schema that this value has, and no value of another type."""
    schema: dict[str, Any] = {"type": kind_of(value)}
    if isinstance(value, dict):
        schema["properties"] = {key: schema_of(each) for key, each in value.items()}
    if isinstance(value, list) and value:
        schema["items"] = {"anyOf": [schema_of(each) for each in value]}
    return schema
