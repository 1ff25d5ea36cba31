"""Writes the grammar of an answer in llguidance's Lark, around a model family's marks.

Pure text. `engine/grammar/constraint.py` compiles it; `formats/` parses the answer.
"""

import json
import re
from collections.abc import Mapping, Sequence

import msgspec

from localinfra.chat.formats.form import NAME, CallForm, ReasoningMarks
from localinfra.chat.messages import Json
from localinfra.chat.schema.prepared import Leniency, Waiver
from localinfra.chat.schema.rules import Rule, json_rule
from localinfra.errors import InvalidRequest

NO_ARGUMENTS: dict[str, Json] = {"type": "object", "properties": {}, "additionalProperties": False}
OTHERS = ("additionalProperties", "allOf", "anyOf", "oneOf", "$ref")
MAX_CALLS = 16  # in one answer: some small models never stop calling
ANY_TEXT = r"/(?s:.)*/"
# llguidance would compute forced text in one go, however long; `Constraint` does it in steps.
HEADER = '%llguidance {"no_forcing": true}'


class Function(msgspec.Struct, frozen=True):
    """A tool that may be called, and the rule for its arguments."""

    name: str
    arguments: Rule


class Calls(msgspec.Struct, frozen=True):
    """The calls that an answer may or must contain."""

    functions: Sequence[Function]
    form: CallForm
    are_required: bool
    are_many: bool  # more than one is allowed


def function(name: str, parameters: dict[str, Json] | None, path: str, waiver: Waiver) -> Function:
    """Raises the same errors as `json_rule`."""
    schema = parameters or NO_ARGUMENTS
    if schema.get("properties") in ({}, []) and not schema.keys() & {"patternProperties", *OTHERS}:
        schema = {**schema, "additionalProperties": False}  # how MCP servers declare no arguments
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    is_object = any(isinstance(name, str) and name.lower() == "object" for name in kinds)
    is_odd = kind is not None and not is_object
    if is_odd and waiver.level < Leniency.UNKNOWN and all(isinstance(kind, str) for kind in kinds):
        raise InvalidRequest(
            'A function takes an object as arguments: its parameters need "type": "object".',
            f"{path}.type",
        )
    if is_object or (is_odd and waiver.level >= Leniency.UNKNOWN):
        schema = {**schema, "type": "object"}
    elif kind is None and not schema.keys() & {"$ref"}:  # some clients leave it implicit
        schema = {**schema, "type": "object"}
    rule = json_rule(schema, path, waiver)
    if is_odd and waiver.level in (Leniency.UNKNOWN, Leniency.HARD):
        rule = msgspec.structs.replace(rule, left_out=(f"{path}.type", *rule.left_out))
    return Function(name, rule)


class MarkLiterals:
    """Writes marks as grammar literals: control tokens by id, the rest as text."""

    def __init__(self, tokens: Mapping[str, int]):
        """`tokens`: spellings that a grammar must name by token id → the id."""
        self._tokens = tokens
        spellings = sorted(tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, spellings)) or r"(?!)")

    def begins_with_token(self, mark: str) -> bool:
        """Whether it starts with a control token, which no text contains."""
        return self._pattern.match(mark) is not None

    def literal(self, text: str) -> str:
        """Rule elements that match exactly this text; empty for empty text."""
        items, at = [], 0
        for found in self._pattern.finditer(text):
            items += [quoted(text[at : found.start()]), f"<[{self._tokens[found[0]]}]>"]
            at = found.end()
        items.append(quoted(text[at:]))
        return " ".join(item for item in items if item)


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""


def answer_grammar(
    body: str,
    marks: MarkLiterals,
    reasoning: ReasoningMarks | None,
    *,
    is_thinking: bool,
) -> str:
    """A grammar of reasoning, if any, followed by `body`, the text that defines the rule `body`.

    `is_thinking`: the prompt has opened the reasoning, so the answer must close it.
    """
    lines = [HEADER]
    if reasoning is None:
        lines.append("start: body")
    else:
        if marks.begins_with_token(reasoning.end):
            lines.append(f"thought: {ANY_TEXT} {marks.literal(reasoning.end)}")
        else:
            lines.append(f"thought[lazy]: {lazily(reasoning.end)}")
        blanks = r"/\s*/"
        if is_thinking:
            lines.append(f"start: thought {blanks} body")
        else:
            lines.append(f"start: ({marks.literal(reasoning.begin)} thought {blanks})? body")
    return "\n".join([*lines, body]) + "\n"


def lazily(end: str) -> str:
    """A terminal that matches any text up to the end mark."""
    return f"{ANY_TEXT} {quoted(end)}"


def calls_body(
    calls: Calls, marks: MarkLiterals, content: str, formatted: str | None = None
) -> str:
    """Rules for calls of the declared functions: alone if required, otherwise optional after text.

    `content`: elements before text, in families that mark it. `formatted`: elements of an answer in
    the requested format, then the only alternative to calls.
    """
    form = calls.form
    rules = []
    for index, declared in enumerate(calls.functions):
        before = marks.literal(form.before.replace(NAME, declared.name))
        rules.append(f"call_{index}: {before} args_{index} {marks.literal(form.after)}")
        rules.append(f"args_{index}: {declared.arguments.text}")
    rules.append("call: " + " | ".join(f"call_{index}" for index in range(len(calls.functions))))
    more = f" ({marks.literal(form.separator)} call){{0,{MAX_CALLS - 1}}}" if calls.are_many else ""
    closing = marks.literal(form.closing)
    only_calls = f"{marks.literal(form.opening)} call{more} {closing}"
    if calls.are_required:
        rules.append(f"body: {only_calls}")
    elif formatted is not None:
        rules.append(f"body: {only_calls} | {formatted}")
    elif content:
        rules.append(f"body: call | {content} {ANY_TEXT}")
    elif form.only_at_start:
        first = re.escape(form.trigger[0])
        opening = marks.literal(form.prefix)
        prefix = f"({opening})? " if marks.begins_with_token(form.prefix) else ""
        rules.append(f'body: {prefix}call{more} | OTHER | ""')
        rules.append(rf"OTHER: /[^\s{first}](?s:.)*/ | /\s+[^\s{first}](?s:.)*/")
    else:
        rules += optional_calls(calls, marks, more, closing)
    return "\n".join(rules)


def optional_calls(calls: Calls, marks: MarkLiterals, more: str, closing: str) -> list[str]:
    """Text, optionally followed by calls; the answer ends after them."""
    form = calls.form
    if marks.begins_with_token(form.trigger):
        opening = marks.literal(form.opening)
        return [f"body: text ({opening} call{more} {closing})?", f"text: {ANY_TEXT}"]
    # A lazy lexeme finds the trigger, so the rules of the first call begin where that ends.
    first = (form.opening + form.before).removeprefix(form.trigger)
    rules = [f"text: {ANY_TEXT}", f"trigger[lazy]: {lazily(form.trigger)}"]
    starts = []
    for index, declared in enumerate(calls.functions):
        rest = marks.literal(first.replace(NAME, declared.name))
        rules.append(f"first_{index}: {rest} args_{index} {marks.literal(form.after)}")
        starts.append(f"first_{index}")
    rules.append(f"body: text | trigger ({' | '.join(starts)}){more} {closing}")
    return rules


def regex_rule(pattern: str) -> str:
    """`pattern` uses the syntax of Rust's regex crate; compiling checks it."""
    escaped = re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", pattern)
    return "/" + re.sub(r"(?<!\\)((?:\\\\)*)\\?\n", r"\1\\n", escaped) + "/"
