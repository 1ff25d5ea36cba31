"""A model's turn in a conversation, as every API that speaks of messages needs it.

Messages and wishes as plain values → a prompt, its deltas, and the parts of the answer they make.
Knows no API's shapes.
"""

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import msgspec

from localinfra.chance import random_hex
from localinfra.chat.answer import Answer, ToolUse, parser_of
from localinfra.chat.calls import CallFilter
from localinfra.chat.formats.pieces import (
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Parser,
    Piece,
    Thought,
    joined,
)
from localinfra.chat.messages import Message
from localinfra.engine.deltas import Deltas
from localinfra.engine.output import OutputDelta, Reading
from localinfra.engine.request import FinishReason, SamplingParams
from localinfra.engine.stops import StopMatcher, Stops
from localinfra.text.request import TextRequest

if TYPE_CHECKING:
    from localinfra.text.model import TextModel  # brings numpy, which only a loaded model needs


class TurnRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a client wants said. `max_tokens` None: as the model's entry
    says, or what the context leaves."""

    messages: Sequence[Message]
    answer: Answer = Answer()
    template_kwargs: Mapping[str, object] = {}
    sampling: SamplingParams
    max_tokens: int | None = None
    num_choices: int = 1
    stops: Sequence[str] = ()
    top_logprobs: int | None = None


class ChoiceReader:
    """One choice's text → the parts of its message, up to a stop string in its content.

    In what is thought or called no stop string counts: a model that thinks about it has not said
    it, and half a call helps nobody. None spans two parts.
    """

    def __init__(self, parser: Parser | None, use: ToolUse, stops: Stops):
        self._parser = parser
        self._use = use
        self._stops = StopMatcher(stops)
        self._calls = CallFilter()
        self._num_calls = 0

    def push(self, text: str, *, is_last: bool, is_cut: bool = False) -> Reading:
        pieces: list[Piece] = []
        for piece in self._parsed(text, is_last, is_cut):
            if not isinstance(piece, Content):
                self._num_calls += isinstance(piece, CallEnd)
                pieces += [*content(self._stops.flush()), piece]
                continue
            num_content = self._stops.num_held + len(piece.text)
            ready, stop = self._stops.push(piece.text)
            pieces += content(ready)
            if stop is not None:
                return Reading(pieces, stop, num_content - len(ready) + self._num_unparsed)
        if is_last:
            pieces += content(self._stops.flush())
        num_held = self._stops.num_held
        return Reading(
            pieces,
            num_held=num_held + self._num_unparsed if num_held else 0,
            # It repeats a call: what has been read is the message, and no more of it is wanted.
            is_complete=self._calls.is_repeating,
        )

    def _parsed(self, text: str, is_last: bool, is_cut: bool) -> list[Piece]:
        if self._parser is None:
            return content(text)
        pieces = self._parser.push(text) if text else []
        if not is_last:
            return self._calls.passed(pieces)
        pieces = self._calls.passed(joined(pieces + self._parser.finish(is_cut=is_cut)))
        return pieces + self._calls.held()

    @property
    def _num_unparsed(self) -> int:
        return self._parser.num_held if self._parser else 0

    def read(self, delta: OutputDelta) -> list[Piece]:
        """What `push` made of the delta's text."""
        return cast(list[Piece], delta.pieces)

    def has_called(self, reason: FinishReason) -> bool:
        """Whether the message ended with calls, whole ones."""
        return bool(self._num_calls) and reason is FinishReason.STOP

    def finish_reason(self, reason: FinishReason) -> str:
        """OpenAI's: `stop` also where the client itself has named the function."""
        return "tool_calls" if self.has_called(reason) and not self._use.is_named else reason


def content(text: str) -> list[Piece]:
    return [Content(text)] if text else []


class Turn(msgspec.Struct, frozen=True):
    """An answer under way, which has its place in the queue. Whoever has it closes `deltas`, begun
    or not."""

    num_prompt: int  # tokens
    readers: list[ChoiceReader]  # of each choice
    deltas: Deltas
    left_out: Sequence[str] = ()  # paths of what was asked of its form and is not enforced


async def begin(model: "TextModel", wanted: TurnRequest, client: str) -> Turn:
    """Raises, before anything is generated, what `TextModel`'s methods raise: InvalidRequest,
    UnsupportedParameter, ContextLengthExceeded, QueueFull."""
    use = wanted.answer.use
    prompt = await model.prompts.chat(wanted.messages, wanted.template_kwargs, use.tools)
    compiled = await model.grammars.compile(wanted.answer, prompt)
    parsers = [
        parser_of(
            prompt.voice,
            has_tools=bool(use.tools),
            is_thinking=prompt.is_thinking,
            is_continued=prompt.is_continued,
        )
        for _ in range(wanted.num_choices)
    ]
    stops = Stops(() if use.is_required else wanted.stops)  # a call can't end within
    readers = [ChoiceReader(parser, use, stops) for parser in parsers]
    deltas = model.generate(
        TextRequest(
            prompts=[prompt.ids],
            max_tokens=wanted.max_tokens,
            sampling=wanted.sampling,
            num_choices=wanted.num_choices,
            readers=readers,
            top_logprobs=wanted.top_logprobs,
            grammar=compiled.grammar,
            marks=model.prompts.marks if parsers[0] else frozenset(),
            client=client,
        )
    )
    return Turn(len(prompt.ids), readers, deltas, compiled.left_out)


class Call(msgspec.Struct, frozen=True):
    id: str
    name: str
    arguments: str  # JSON


class Said(msgspec.Struct, frozen=True):
    """A whole message. Its last call may have been cut off by max_tokens."""

    content: str
    thought: str
    calls: list[Call]


class SaidBuilder:
    """The parts of a message → the message."""

    def __init__(self) -> None:
        self._texts: dict[type, list[str]] = {Content: [], Thought: []}
        self._calls: list[tuple[str, list[str]]] = []

    def add(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if isinstance(piece, CallStart):
                self._calls.append((piece.name, []))
            elif isinstance(piece, CallArguments):
                self._calls[-1][1].append(piece.text)
            elif not isinstance(piece, CallEnd):
                self._texts[type(piece)].append(piece.text)

    def said(self) -> Said:
        calls = [Call(call_id(), name, "".join(arguments)) for name, arguments in self._calls]
        return Said("".join(self._texts[Content]), "".join(self._texts[Thought]), calls)


def call_id() -> str:
    return f"call_{random_hex(24)}"


async def pieces_of(turn: Turn) -> AsyncGenerator[tuple[OutputDelta, list[Piece]], None]:
    """Each delta with the parts it completes; closes the turn's deltas at its end."""
    async with contextlib.aclosing(turn.deltas):
        async for step in turn.deltas:
            for delta in step:
                yield delta, turn.readers[delta.choice].read(delta)
