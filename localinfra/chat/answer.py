"""The form a client wants an answer to have, as plain values, and the grammar that enforces it.

Shared by the routes; pure.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from localinfra.chat.formats.bare import BareCalls
from localinfra.chat.formats.form import CallForm, Voice
from localinfra.chat.formats.harmony import HARMONY, HarmonyParser
from localinfra.chat.formats.marked import MarkedParser
from localinfra.chat.formats.pieces import Parser
from localinfra.chat.grammar.answers import (
    Calls,
    answer_grammar,
    calls_body,
    function,
    grammar_text,
)
from localinfra.chat.grammar.lark import LarkWriter, regex
from localinfra.chat.messages import Json
from localinfra.chat.schema.expected import Expected
from localinfra.chat.schema.prepared import Hard, Leniency, Waiver
from localinfra.chat.schema.rules import Rule, json_rule

OUTPUT = "output"  # name of a client's own grammar within ours
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
    is_strict: bool = False  # enforce the whole schema, or refuse the request
    has_schema: bool = True  # False: the client's `parameters` are not a schema


class ToolUse(msgspec.Struct, frozen=True):
    """A request's tools, and whether one must be called. `is_named` implies exactly one."""

    tools: Sequence[Tool] = ()  # described to the model
    allowed: frozenset[str] | None = None  # names of the callable ones; None: all
    is_required: bool = False
    is_named: bool = False
    is_parallel: bool = True

    @property
    def callable(self) -> Sequence[Tool]:
        if self.allowed is None:
            return self.tools
        return [tool for tool in self.tools if tool.name in self.allowed]


class Answer(msgspec.Struct, frozen=True):
    """All requirements on the form of an answer."""

    format: AnswerFormat | None = None
    use: ToolUse = ToolUse()


class GrammarSource(msgspec.Struct, frozen=True):
    """A grammar, not yet compiled."""

    text: str
    left_out: Sequence[str] = ()  # paths in the schema that it does not enforce
    is_plain: bool = False  # sure to compile in milliseconds
    # Set if any JSON object will do: the mark that ends reasoning before it, b"" if there is none.
    free_json: bytes | None = None
    hard: Sequence[Hard] = ()  # keywords that may keep it from compiling


def grammar_of(
    answer: Answer,
    voice: Voice | None,
    tokens: Mapping[str, int],
    is_thinking: bool,
    *,
    is_continued: bool = False,
    waivers: Mapping[str, Waiver] = {},
) -> GrammarSource | None:
    """The grammar of the answer, or None if any text will do.

    `tokens`: spellings that a grammar must name by token id. `voice`: None for a raw completion.
    `is_continued`: the prompt has already opened the content. `waivers`: by name of tool, where
    more than usual must be left out. Raises InvalidRequest or UnsupportedParameter if something
    can't be enforced.
    """
    if voice and is_continued:
        voice = msgspec.structs.replace(voice, reasoning=None, content="", begun="")
    lark = LarkWriter(tokens, has_short_ids=voice is not None and voice.calls.has_short_ids)
    rules = [format_rule(answer.format)] if answer.format else []
    calls = None
    if answer.use.callable and voice:
        functions = [
            function(
                tool.name,
                tool.parameters,
                tool.param,
                waivers.get(tool.name, usual_waiver(tool)),
                voice.calls,
                lark,
            )
            for tool in answer.use.callable
        ]
        are_many = answer.use.is_parallel and not voice.calls.is_single
        calls = Calls(functions, voice.calls, answer.use.is_required, are_many)
    elif answer.format is None:
        return None

    def body(begun: str) -> str:
        content = lark.literal(voice.content.removeprefix(begun)) if voice else ""
        formatted = f"{content} {rules[0].text}" if answer.format else None
        if calls and voice:
            return calls_body(calls, lark, voice, begun, formatted)
        assert formatted is not None
        return formatted

    text = answer_grammar(body, lark, voice, is_thinking=is_thinking)
    rules += [function.arguments for function in calls.functions] if calls else []
    if answer.format is not None and answer.format.kind == "lark":
        parts = [{"lark_grammar": text}, {"name": OUTPUT, "lark_grammar": answer.format.text}]
        text = msgspec.json.encode({"grammars": parts}).decode()
    left_out = [path for rule in rules for path in rule.left_out]
    free_json = None
    if answer.format and answer.format.schema == ANY_OBJECT and not answer.use.callable:
        free_json = voice.reasoning.end.encode() if voice and voice.reasoning else b""
    hard = [part for rule in rules for part in rule.hard]
    return GrammarSource(text, left_out, all(rule.is_plain for rule in rules), free_json, hard)


def usual_waiver(tool: Tool) -> Waiver:
    if not tool.has_schema:
        return Waiver(Leniency.ALL)
    return Waiver(Leniency.NOTHING if tool.is_strict else Leniency.UNKNOWN)


def arguments_source(
    tool: Tool, waiver: Waiver, form: CallForm, tokens: Mapping[str, int]
) -> GrammarSource:
    """A grammar of this function's arguments alone. Raises the same errors as `grammar_of`."""
    lark = LarkWriter(tokens)
    rule = function(tool.name, tool.parameters, tool.param, waiver, form, lark).arguments
    return source_of(rule, lark.lines)


def source_of(rule: Rule, lines: Sequence[str] = ()) -> GrammarSource:
    """`lines`: the rules to which it refers."""
    text = grammar_text(rule.text, lines)
    return GrammarSource(text, rule.left_out, rule.is_plain, hard=rule.hard)


def format_rule(wanted: AnswerFormat) -> Rule:
    """The rule that matches text of this form. Raises the same errors as `grammar_of`."""
    if wanted.kind == "json":
        return json_rule(wanted.schema, wanted.param, Waiver(Leniency.ONE_OF))
    if wanted.kind == "regex":
        return Rule(regex(wanted.text))
    return Rule(f"@{OUTPUT}")


def parser_of(
    voice: Voice,
    *,
    tools: Sequence[Tool] = (),
    auto: ToolUse | None = None,
    is_thinking: bool,
    is_continued: bool = False,
) -> Parser | None:
    """The parser of an answer, or None if all its text is content.

    `tools`: those described to the model. `auto`: which of them it may call if it likes; such calls
    count even without the marks of its form.
    """
    expected = {tool.name: Expected(tool.parameters) for tool in tools}
    if voice is HARMONY:
        parser: Parser = HarmonyParser(in_body=is_continued)
    elif tools or voice.reasoning or voice.content or voice.content_end:
        parser = MarkedParser(
            voice, expected or None, starts_thinking=is_thinking, is_continued=is_continued
        )
    else:
        return None
    if auto is None or not auto.callable or is_continued:
        return parser
    functions = {tool.name: expected[tool.name] for tool in auto.callable}
    return BareCalls(parser, functions, max_calls=None if auto.is_parallel else 1)
