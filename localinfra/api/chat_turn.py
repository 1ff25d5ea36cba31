"""A model's turn in a conversation, as every API that speaks of messages needs it.

Messages and wishes as plain values → a prompt, its deltas, and the parts of the answer they make.
Knows no API's shapes.
"""

import contextlib
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from localinfra.chat.answer import Answer, ToolUse, parser_of
from localinfra.chat.calls import CallFilter
from localinfra.chat.messages import Message
from localinfra.chat.parser import (
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Parser,
    Piece,
    Thought,
)
from localinfra.engine.deltas import Deltas
from localinfra.engine.output import OutputDelta
from localinfra.engine.request import FinishReason, SamplingParams, TextRequest

if TYPE_CHECKING:
    from localinfra.text import TextModel  # brings numpy, which only a loaded model needs


class TurnRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a client wants said. `max_tokens` None: as the model's entry says."""

    messages: Sequence[Message]
    answer: Answer = Answer()
    template_kwargs: Mapping[str, object] = {}
    sampling: SamplingParams
    max_tokens: int | None = None
    num_choices: int = 1
    stops: Sequence[str] = ()
    top_logprobs: int | None = None


class ChoiceReader:
    """One choice's deltas → the parts of its message."""

    def __init__(self, parser: Parser | None, use: ToolUse):
        self._parser = parser
        self._use = use
        self._calls = CallFilter()
        self._num_calls = 0

    @property
    def is_complete(self) -> bool:
        """It repeats a call: what has been read is the message, and no more of it is wanted."""
        return self._calls.is_repeating

    def read(self, delta: OutputDelta) -> list[Piece]:
        if self._parser is None:
            return [Content(delta.text)] if delta.text else []
        pieces = self._parser.push(delta.text) if delta.text else []
        if delta.finish_reason is not None:
            pieces += self._parser.finish()
        pieces = self._calls.passed(pieces)
        if delta.finish_reason is not None:
            pieces += self._calls.held()
        self._num_calls += sum(isinstance(piece, CallEnd) for piece in pieces)
        return pieces

    def has_called(self, reason: FinishReason) -> bool:
        """Whether the message ended with calls, whole ones."""
        return bool(self._num_calls) and reason is FinishReason.STOP

    def finish_reason(self, reason: FinishReason) -> str:
        """OpenAI's: `stop` also where the client itself has named the function."""
        return "tool_calls" if self.has_called(reason) and not self._use.is_named else reason


ReadDelta: TypeAlias = tuple[OutputDelta, list[Piece]]  # with the parts it completes


class Turn(msgspec.Struct, frozen=True):
    """An answer under way, which has its place in the queue. Whoever has it closes `place`."""

    num_prompt: int  # tokens
    readers: list[ChoiceReader]  # of each choice
    place: Deltas  # in the queue, and where `deltas` come from
    deltas: AsyncGenerator[list[ReadDelta], None]  # those of a step together
    left_out: Sequence[str] = ()  # paths of what was asked of its form and is not enforced


async def begin(model: "TextModel", wanted: TurnRequest) -> Turn:
    """Raises, before anything is generated, what `TextModel`'s methods raise: InvalidRequest,
    UnsupportedParameter, ContextLengthExceeded, QueueFull."""
    use = wanted.answer.use
    prompt = await model.chat_prompt(wanted.messages, wanted.template_kwargs, use.tools)
    compiled = await model.compile(wanted.answer, prompt)
    parsers = [
        parser_of(
            prompt.voice,
            has_tools=bool(use.tools),
            is_thinking=prompt.is_thinking,
            is_continued=prompt.is_continued,
        )
        for _ in range(wanted.num_choices)
    ]
    request = TextRequest(
        prompts=[prompt.ids],
        max_tokens=wanted.max_tokens,
        sampling=wanted.sampling,
        num_choices=wanted.num_choices,
        stops=() if use.is_required else wanted.stops,  # a call can't end within
        top_logprobs=wanted.top_logprobs,
        grammar=compiled.grammar,
        marks=model.marks if parsers[0] else frozenset(),
    )
    readers = [ChoiceReader(parser, use) for parser in parsers]
    place = model.generate(request)
    deltas = read_deltas(place, readers, request.completed)
    return Turn(len(prompt.ids), readers, place, deltas, compiled.left_out)


async def read_deltas(
    steps: Deltas,
    readers: Sequence[ChoiceReader],
    completed: set[int],
) -> AsyncGenerator[list[ReadDelta], None]:
    """Each step's deltas with what they say. A choice that its reader takes for complete ends
    there, and is put among `completed`."""
    async with contextlib.aclosing(steps):
        async for step in steps:
            told: list[ReadDelta] = []
            for delta in step:
                if delta.choice in completed:
                    continue
                reader = readers[delta.choice]
                pieces = reader.read(delta)
                if reader.is_complete:
                    completed.add(delta.choice)
                    delta = msgspec.structs.replace(delta, finish_reason=FinishReason.STOP)
                told.append((delta, pieces))
            yield told
            if len(completed) == len(readers):
                return


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
    return f"call_{uuid.uuid4().hex[:24]}"


async def pieces_of(turn: Turn) -> AsyncGenerator[ReadDelta, None]:
    """Each delta with the parts it completes; closes the turn's deltas at its end."""
    async with contextlib.aclosing(turn.deltas):
        async for step in turn.deltas:
            for read in step:
                yield read
