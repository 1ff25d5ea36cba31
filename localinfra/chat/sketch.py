"""A conversation of the same shape as another, with words for its texts and names.

How a template renders a conversation depends on its shape; the words tell what it leaves out.
"""

import re
from collections.abc import Sequence

import msgspec

from localinfra.chat.decoding import values_of
from localinfra.chat.forms import SHORT_ID
from localinfra.chat.messages import FunctionCall, Message, ToolCall
from localinfra.steps import done

WORD = re.compile(r"Kw(?:\d+(?:c\d+)?|told)vj")  # stands for a text or a function's name
TOLD = "Kwtoldvj"  # stands for an instruction about tools
SHORT_ARGUMENTS = 200  # characters


class Sketch(msgspec.Struct, frozen=True):
    messages: list[Message]
    needed: dict[str, int]  # words that the prompt must contain → the index of their message
    names: frozenset[str]  # those of functions
    beside_calls: frozenset[str]  # those of texts in messages that also call
    mixed: frozenset[str]  # all of such messages


def sketched(
    messages: Sequence[Message], *, is_continued: bool = False, is_told: bool = False
) -> Sketch:
    """`messages` have text or None as content. One to be continued always gets a word, since its
    end will be marked. `is_told`: TOLD will be added at the start."""
    ids: dict[str, str] = {}
    needed: dict[str, int] = {TOLD: 0} if is_told else {}
    called: set[str] = set()
    beside: set[str] = set()
    mixed: set[str] = set()
    sketch: list[Message] = []
    for at, message in enumerate(messages):
        content = message.content
        assert content is None or isinstance(content, str)
        if is_continued and at == len(messages) - 1:
            content = _word(at)
        if content:
            content = _word(at) if not content.isspace() else " "
        calls = [
            ToolCall(
                FunctionCall(f"Kw{at}c{number}vj", _sketched_arguments(call)),
                _sketched_id(call.id, ids),
            )
            for number, call in enumerate(message.tool_calls or ())
        ]
        names = [call.function.name for call in calls]
        called.update(names)
        texts = [content] if content and content != " " else []
        needed.update(dict.fromkeys([*texts, *names], at))
        if texts and names:
            beside.update(texts)
            mixed.update(texts, names)
        sketch.append(
            Message(
                message.role,
                content,
                name="n" if message.name is not None else None,
                tool_calls=calls or None,
                tool_call_id=_sketched_id(message.tool_call_id, ids),
                reasoning_content="r" if message.reasoning_content is not None else None,
            )
        )
    return Sketch(sketch, needed, frozenset(called), frozenset(beside), frozenset(mixed))


def _word(at: int) -> str:
    return f"Kw{at}vj"  # occurs in no template, and no word is part of another


def _sketched_arguments(call: ToolCall) -> str:
    if len(call.function.arguments) <= SHORT_ARGUMENTS:
        return call.function.arguments
    try:
        arguments = done(values_of(call.function.arguments.encode() or b"{}")).whole
    except (msgspec.DecodeError, RecursionError):
        return "x"
    if not isinstance(arguments, dict):
        return "x"
    return '{"k":"v"}'


def _sketched_id(id: str | None, known: dict[str, str]) -> str | None:
    if id is None:
        return None
    if id not in known:
        number = len(known)
        known[id] = f"a{number:08}" if SHORT_ID.fullmatch(id) else f"call_{number}" if id else ""
    return known[id]
