"""Tool calls of every family, written by random logits, with marks that the vocabulary writes as
text."""

import json
from typing import Any

import jsonschema
import pytest
from call_forms import FORMS, THINK
from grammar_writer import RECORD, Writer

from localinfra.chat.answer import Answer, Tool, ToolUse, grammar_of, parser_of
from localinfra.chat.formats.form import NAME, Voice
from localinfra.chat.formats.harmony import HARMONY
from localinfra.chat.formats.pieces import CallEnd, CallStart, Content, Thought

VOICES = [(name, Voice(form, takes_tools=True)) for name, form in FORMS.items()]
TOOLS = [
    Tool("lookup", {}, RECORD, "tools[0]"),
    Tool("stop", {}, None, "tools[1]"),
]


@pytest.mark.parametrize("thinks", [False, True])
@pytest.mark.parametrize(
    ("name", "voice"), [*VOICES, ("harmony", HARMONY)], ids=lambda v: str(v)[:12]
)
def test_required_calls_of_each_family_parse_into_valid_calls(
    writer: Writer, name: str, voice: Voice, thinks: bool
) -> None:
    if thinks and name != "harmony":
        voice = Voice(voice.calls, True, THINK)
    use = ToolUse(TOOLS, is_required=True)
    source = grammar_of(Answer(use=use), voice, {}, False)
    assert source
    num_ended = 0
    for seed in range(12):
        start = ""
        if thinks and voice.reasoning:
            start = f"{voice.reasoning.begin}hm{voice.reasoning.end}"
        text = writer.write(source.text, seed, start)
        if text is None:
            continue
        num_ended += 1
        parser = parser_of(voice, tools=TOOLS, is_thinking=False)
        assert parser
        pieces = [*parser.push(text), *parser.finish()]
        calls = [piece.name for piece in pieces if isinstance(piece, CallStart)]
        assert calls and set(calls) <= {"lookup", "stop"}, text
        assert sum(isinstance(piece, CallEnd) for piece in pieces) == len(calls)
        assert not any(isinstance(piece, Content) for piece in pieces), (text, pieces)
        assert any(isinstance(piece, Thought) for piece in pieces) <= (voice.reasoning is not None)
        for piece, arguments in collected(pieces):
            if piece == "lookup":
                jsonschema.validate(arguments, RECORD)
            else:
                assert arguments == {}
    assert num_ended > 6


def collected(pieces: list[Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, str]] = []
    for piece in pieces:
        if isinstance(piece, CallStart):
            found.append((piece.name, ""))
        elif hasattr(piece, "text") and found and type(piece).__name__ == "CallArguments":
            found[-1] = (found[-1][0], found[-1][1] + piece.text)
    return [(name, json.loads(text)) for name, text in found]


@pytest.mark.parametrize(("name", "voice"), VOICES, ids=lambda v: str(v)[:12])
def test_under_auto_a_call_once_begun_is_of_a_declared_tool(
    writer: Writer, name: str, voice: Voice
) -> None:
    form = voice.calls
    source = grammar_of(Answer(use=ToolUse(TOOLS)), voice, {}, False)
    assert source
    text = "" if form.only_at_start else "Let me see. "
    # Any text is allowed, and as a text it may end.
    constraint = writer.compiler.compile(source.text, "t").follow()
    for token in writer.model.tokenize("It is 4 < 5.\n", parse_special=False, add_bos=False):
        assert constraint.allows(token)
        constraint.accept(token)
    assert constraint.allows(2)  # <|im_end|>
    for seed in range(6):
        written = writer.write(source.text, seed, text + form.trigger)
        if written is None:
            continue
        parser = parser_of(voice, tools=TOOLS, is_thinking=False)
        assert parser
        pieces = [*parser.push(written), *parser.finish()]
        for called, arguments in collected(pieces):
            assert called in ("lookup", "stop")
            jsonschema.validate(arguments, RECORD if called == "lookup" else {"maxProperties": 0})
        assert any(isinstance(piece, CallStart) for piece in pieces), written
    constraint = writer.compiler.compile(source.text, "t").follow()
    before_name = (form.opening + form.before).partition(NAME)[0]
    begun = text + "".join(before_name.partition("{")[:2])
    for token in writer.model.tokenize(begun, parse_special=False, add_bos=False):
        assert constraint.allows(token)
        constraint.accept(token)
    assert not constraint.allows(2), "a call that has begun can't just end"
