"""The grammar of an answer: reasoning, then content, calls of functions, or both."""

import itertools
from collections.abc import Callable, Iterable, Sequence

import msgspec

from localinfra.chat.formats.form import NAME, CallForm, Voice
from localinfra.chat.grammar.arguments import arguments_rule
from localinfra.chat.grammar.lark import ANY_TEXT, LarkWriter, alternatives
from localinfra.chat.messages import Json
from localinfra.chat.schema.prepared import Leniency, Waiver
from localinfra.chat.schema.rules import Rule
from localinfra.errors import InvalidRequest

NO_ARGUMENTS: dict[str, Json] = {"type": "object", "properties": {}, "additionalProperties": False}
OTHERS = ("additionalProperties", "allOf", "anyOf", "oneOf", "$ref")
MAX_CALLS = 16  # in one answer: some small models never stop calling
BLANKS = r"/\s*/"
LEADING = r"(/[ \n]{1,4}/)?"  # some templates write blanks before reasoning or calls
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


def function(
    name: str,
    parameters: dict[str, Json] | None,
    path: str,
    waiver: Waiver,
    form: CallForm,
    lark: LarkWriter,
) -> Function:
    """Its rule may refer to others, which are added to `lark`. Raises the same errors as
    `enforceable`."""
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
    rule = arguments_rule(schema, path, waiver, form, lark)
    if is_odd and waiver.level in (Leniency.UNKNOWN, Leniency.HARD):
        rule = msgspec.structs.replace(rule, left_out=(f"{path}.type", *rule.left_out))
    return Function(name, rule)


def answer_grammar(
    body: Callable[[str], str], lark: LarkWriter, voice: Voice | None, *, is_thinking: bool
) -> str:
    """A grammar of reasoning, if any, followed by the body.

    `body`: elements that refer to rules of `lark`, for what has begun of them already.
    `is_thinking`: the prompt has opened the reasoning, so the answer must close it.
    """
    begun = voice.begun if voice else ""
    start = lark.rule(body(begun))
    if voice and voice.reasoning:
        later = lark.rule(body("")) if begun else start
        thought = f"{lark.up_to(voice.reasoning.end)} {BLANKS} {later}"
        begin = lark.literal(voice.reasoning.begin.removeprefix(begun))
        start = thought if is_thinking else f"{LEADING} {begin} {thought} | {start}"
    return grammar_text(start, lark.lines)


def grammar_text(start: str, rules: Sequence[str]) -> str:
    return "\n".join([HEADER, f"start: {start}", *rules]) + "\n"


def calls_body(
    calls: Calls, lark: LarkWriter, voice: Voice, begun: str, formatted: str | None = None
) -> str:
    """Calls of the declared functions: alone if required, otherwise optional after text.

    `begun`: of the marks that begin an answer. `formatted`: elements of an answer in the requested
    format, then the only alternative to calls.
    """
    form = calls.form
    has_begin = calls.are_required or formatted is not None or form.only_at_start
    if not (has_begin or voice.content or voice.content_end):
        return text_and_calls(calls, lark, voice)  # in which a call may begin at once
    alone = calls_alone(calls, lark, begun)
    content = lark.literal(voice.content.removeprefix(begun))
    if calls.are_required:
        if voice.content_end:  # after an empty content
            alone = f"({content} {lark.literal(voice.content_end)})? {alone}"
        return alone if form.opening[:1].isspace() else f"{LEADING} {alone}"
    if formatted is not None:
        return f"{alone} | {formatted}"
    if voice.content or voice.content_end:
        return f"{alone} | {content} ({text_and_calls(calls, lark, voice)})"
    is_token = lark.begins_with_token(form.prefix)
    prefix = f"({lark.literal(form.prefix)})? " if is_token else ""
    other = lark.terminal(f"{ANY_TEXT} & ~({BLANKS} {lark.literal(form.trigger)} {ANY_TEXT})")
    return f"{prefix}{alone} | {other}"


def calls_alone(calls: Calls, lark: LarkWriter, begun: str) -> str:
    form = calls.form
    begin = (form.opening + form.before).removeprefix(begun)
    blanks = begin.partition(form.trigger)[0]
    if not blanks.isspace():
        return calls_from([begin, *form.others], calls, lark)
    # Reasoning may have ended with them.
    return f"({lark.literal(blanks)})? {calls_from([begin.removeprefix(blanks)], calls, lark)}"


def text_and_calls(calls: Calls, lark: LarkWriter, voice: Voice) -> str:
    """Text, and calls after it, if any."""
    form = calls.form
    begin = form.opening + form.before
    text = ANY_TEXT
    if not form.only_at_start:
        # The mark is found as text comes, so the rules of the first call begin after it.
        rest = begin.partition(form.trigger)[2]
        text += f" | {lark.up_to(form.trigger)} {calls_from([rest], calls, lark)}"
    if voice.content_end:
        text += f" | {lark.up_to(voice.content_end)} ({calls_from([begin], calls, lark)})?"
    return text


def calls_from(begins: Sequence[str], calls: Calls, lark: LarkWriter) -> str:
    """Elements of calls, the first of which begins with one of `begins`."""
    form = calls.form
    ends = [f"{each.arguments.text} {named(form.after, each, lark)}" for each in calls.functions]
    ends = [lark.rule(end) for end in ends]

    def call(begins: Iterable[str]) -> str:
        marks = itertools.product(begins, zip(calls.functions, ends, strict=True))
        found = [f"{named(begin, each, lark)} {end}" for begin, (each, end) in marks]
        return lark.rule(alternatives(found))

    another = [form.separator + begin for begin in (form.before, *form.others)]
    more = f"{call(another)}{{0,{MAX_CALLS - 1}}}" if calls.are_many else ""
    closing = lark.literal(form.closing)
    return f"{call(begins)} {more} {f'({closing})?' if form.has_open_end else closing}"


def named(mark: str, function: Function, lark: LarkWriter) -> str:
    return lark.literal(mark.replace(NAME, function.name))
