"""Stop strings end an answer's content, never its reasoning or a call, however the text is cut."""

import itertools
from collections.abc import Iterator

import pytest
from call_forms import THINK

from localinfra.chat.answer import Tool, ToolUse, parser_of
from localinfra.chat.formats.form import Voice
from localinfra.chat.formats.generic import GENERIC
from localinfra.chat.formats.harmony import HARMONY
from localinfra.chat.formats.pieces import CallArguments, CallEnd, Content, Piece, Thought
from localinfra.chat.ids import CallIds
from localinfra.engine.output import ChoiceOutput, OutputDelta
from localinfra.engine.request import FinishReason, TokenEvent, TokenLogprob
from localinfra.engine.stops import Stops
from localinfra.text.turn import ChoiceReader

THINKER = Voice(GENERIC, takes_tools=True, reasoning=THINK)
PLAIN = Voice(GENERIC, takes_tools=True, reasoning=None)
TOOLS = [Tool("note", {}, None, "tools[0]")]
BEGIN, END = THINK.begin, THINK.end
CALL = '<tool_call>\n{"name": "note", "arguments": {"text": "END"}}\n</tool_call>'
HARMONY_CALL = (
    '<|channel|>commentary to=functions.note <|constrain|>json<|message|>{"text": "END"}<|call|>'
)


def cuts(text: str) -> Iterator[list[str]]:
    """The text in pieces of every size, and in two at every place."""
    for size in (1, 2, 3, 5, 7, len(text)):
        yield [text[at : at + size] for at in range(0, len(text), size)]
    for at in range(1, len(text)):
        yield [text[:at], text[at:]]


def play(voice: Voice, parts: list[str], stops: list[str]) -> list[OutputDelta]:
    """The deltas of an answer whose tokens are these parts, cut by max_tokens at their end."""
    parser = parser_of(voice, tools=TOOLS, auto=ToolUse(TOOLS), is_thinking=False)
    reader = ChoiceReader(parser, Stops(stops), CallIds(voice.calls, frozenset()))
    output = ChoiceOutput(
        0, [part.encode() for part in parts].__getitem__, Stops(()), reader=reader
    )
    deltas = [
        output.push(
            TokenEvent(
                0, at, at + 1, 0, TokenLogprob(at, -1.0),
                finish_reason=FinishReason.LENGTH if at == len(parts) - 1 else None,
            )
        )
        for at in range(len(parts))
    ]  # fmt: skip
    found = [delta for delta in deltas if delta is not None]
    assert all(delta.finish_reason is None for delta in found[:-1])
    return found


def said(deltas: list[OutputDelta]) -> tuple[str, str, str]:
    """Its content, its reasoning and the arguments of its calls."""
    pieces = [piece for delta in deltas for piece in delta.pieces]

    def text(kind: type[Piece]) -> str:
        return "".join(getattr(piece, "text", "") for piece in pieces if type(piece) is kind)

    arguments = text(CallArguments)
    assert bool(arguments) == any(isinstance(piece, CallEnd) for piece in pieces)
    return text(Content), text(Thought), arguments


@pytest.mark.parametrize(
    ("voice", "text", "content", "thought", "arguments", "stop"),
    [
        (THINKER, f"{BEGIN}An END?{END}No END.", "No ", "An END?", "", "END"),
        (THINKER, f"{BEGIN}END{END}It is done.", "It is done.", "END", "", None),
        (THINKER, f"{BEGIN}EN{END}D, it is.", "D, it is.", "EN", "", None),
        (THINKER, "Without END of thought", "Without ", "", "", "END"),
        (PLAIN, f"I note it.\n{CALL}", "I note it.", "", '{"text": "END"}', None),
        (PLAIN, f"I END here.\n{CALL}", "I ", "", "", "END"),
        (PLAIN, '{"name": "note", "age": 7} END.', '{"name": "note", "age": 7} ', "", "", "END"),
        (PLAIN, f"I EN{CALL}", "I EN", "", '{"text": "END"}', None),
        (THINKER, f"{BEGIN}END{END}{CALL}", "", "END", '{"text": "END"}', None),
        (
            HARMONY,
            "<|channel|>analysis<|message|>The END?<|end|><|start|>assistant"
            "<|channel|>final<|message|>To the END.<|return|>",
            "To the ", "The END?", "", "END",
        ),
        (
            HARMONY,
            f"<|channel|>analysis<|message|>END<|end|><|start|>assistant{HARMONY_CALL}",
            "", "END", '{"text": "END"}', None,
        ),
    ],
)  # fmt: skip
def test_stops_count_in_the_content_alone(
    voice: Voice, text: str, content: str, thought: str, arguments: str, stop: str | None
) -> None:
    for parts in cuts(text):
        deltas = play(voice, parts, ["END", "nowhere"])
        assert said(deltas) == (content, thought, arguments), parts
        expected = (stop, FinishReason.STOP if stop else FinishReason.LENGTH)
        assert (deltas[-1].stop, deltas[-1].finish_reason) == expected


def test_tokens_after_a_stop_have_no_logprobs() -> None:
    text = f"{BEGIN}END{END}It is the END<"
    for parts in cuts(text):
        deltas = play(THINKER, parts, ["END"])
        offsets = [item.offset for delta in deltas for item in delta.scored]
        starts = [0, *itertools.accumulate(map(len, parts))][:-1]
        assert offsets == [start for start in starts if start < text.rindex("END")]


def test_the_possible_beginning_of_a_stop_is_held_back() -> None:
    text = f"{BEGIN}EN{END}ENENEND"
    deltas = play(THINKER, list(text), ["END"])
    for at in range(len(deltas)):
        assert "ENENEN".startswith(said(deltas[:at])[0])
    assert said(deltas)[0] == "ENEN"
