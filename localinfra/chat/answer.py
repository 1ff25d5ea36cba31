"""What a client wants an answer to be, as plain values, and the grammar that makes it so.

Shared by the routes; pure.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from localinfra.chat import grammar
from localinfra.chat.dialects import HARMONY, Voice
from localinfra.chat.messages import Json
from localinfra.chat.parser import HarmonyParser, MarkedParser, Parser
from localinfra.chat.schema import json_rule

OUTPUT = "output"  # what a client's own grammar is called within ours
ANY_OBJECT: dict[str, Json] = {"type": "object"}


class AnswerFormat(msgspec.Struct, frozen=True):
    """Text that conforms to a schema, a regex or a grammar."""

    kind: Literal["json", "regex", "lark"]
    param: str  # named in errors
    schema: dict[str, Json] = {}
    text: str = ""  # of the regex or grammar


class Tool(msgspec.Struct, frozen=True):
    """A function that the model may call."""

    name: str
    definition: Mapping[str, Json]  # as the client sent it, for the template
    parameters: dict[str, Json] | None
    param: str  # path of the parameters, for errors


class ToolUse(msgspec.Struct, frozen=True):
    """The tools of a request, and whether they must be used. With `is_named` there is one."""

    tools: Sequence[Tool] = ()
    is_required: bool = False
    is_named: bool = False
    is_parallel: bool = True


class Answer(msgspec.Struct, frozen=True):
    """All that is asked of an answer's form."""

    format: AnswerFormat | None = None
    use: ToolUse = ToolUse()


def grammar_of(
    answer: Answer,
    voice: Voice | None,
    tokens: Mapping[str, int],
    is_thinking: bool,
    *,
    is_continued: bool = False,
) -> str | None:
    """The source of its grammar; None where any text will do.

    `tokens` are the spellings that are no text to a grammar; `voice` is None where a text is
    continued that is no chat; `is_continued`: the prompt has opened the content. Raises
    InvalidRequest and UnsupportedParameter for what can't be enforced.
    """
    marks = grammar.Marks(tokens)
    reasoning = voice.reasoning if voice and not is_continued else None
    content = marks.literal(voice.content) if voice and not is_continued else ""
    formatted = f"{content} {format_elements(answer.format)}" if answer.format else None
    if answer.use.tools and voice:
        calls = grammar.Calls(
            [grammar.function(tool.name, tool.parameters, tool.param) for tool in answer.use.tools],
            voice.calls,
            answer.use.is_required,
            answer.use.is_parallel,
        )
        body = grammar.calls_body(calls, marks, content, formatted)
    elif formatted is None:
        return None
    else:
        body = f"body: {formatted}"
    source = grammar.answer_grammar(body, marks, reasoning, is_thinking=is_thinking)
    if answer.format is None or answer.format.kind != "lark":
        return source
    parts = [{"lark_grammar": source}, {"name": OUTPUT, "lark_grammar": answer.format.text}]
    return msgspec.json.encode({"grammars": parts}).decode()


def format_elements(wanted: AnswerFormat) -> str:
    """The elements of a rule that stand for text of this form. Raises as `grammar_of`."""
    if wanted.kind == "json":
        return json_rule(wanted.schema, wanted.param)
    if wanted.kind == "regex":
        return grammar.regex_rule(wanted.text)
    return f"@{OUTPUT}"


def parser_of(
    voice: Voice, *, has_tools: bool, is_thinking: bool, is_continued: bool = False
) -> Parser | None:
    """None where there is nothing to tell apart: the text is the content."""
    if voice is HARMONY:
        return HarmonyParser(in_body=is_continued)
    if not has_tools and voice.reasoning is None:
        return None
    calls = voice.calls if has_tools else None
    return MarkedParser(calls, voice.reasoning, starts_thinking=is_thinking)
