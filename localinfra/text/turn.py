"""A model's turn in a conversation, for every API with messages.

Messages and options as plain values → a prompt, its deltas, and the pieces parsed from them. Knows
no API's wire format.
"""

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import msgspec

from localinfra.chat.answer import Answer, parser_of
from localinfra.chat.calls import CallFilter
from localinfra.chat.formats.pieces import (
    CallEnd,
    Content,
    Parser,
    Piece,
    joined,
)
from localinfra.chat.ids import CallIds, ids_in
from localinfra.chat.messages import Message
from localinfra.engine.deltas import Deltas
from localinfra.engine.output import OutputDelta, ParsedText
from localinfra.engine.request import FinishReason
from localinfra.engine.stops import StopMatcher, Stops
from localinfra.text.request import TextParams, TextRequest
from localinfra.text.showing import NOTHING_SHOWN, ShownPictures

if TYPE_CHECKING:
    from localinfra.text.model import TextModel  # imports numpy, which only a loaded model needs


class TurnRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request for the next message."""

    messages: Sequence[Message]
    answer: Answer
    template_kwargs: Mapping[str, object]
    params: TextParams
    shown: ShownPictures = NOTHING_SHOWN  # the pictures whose marks are in the messages


class ChoiceReader:
    """One choice's text → the pieces of its message, up to a stop string in its content.

    Stop strings don't count in reasoning or calls: a model that thinks of one has not said it, and
    half a call is useless. None matches across reasoning or a call.
    """

    def __init__(self, parser: Parser | None, stops: Stops, ids: CallIds):
        self._parser = parser
        self._stops = StopMatcher(stops)
        self._calls = CallFilter()
        self._ids = ids
        self._num_calls = 0

    def push(self, text: str, *, is_last: bool, is_cut: bool = False) -> ParsedText:
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
                return ParsedText(pieces, stop, num_content - len(ready) + self._num_unparsed)
        if is_last:
            pieces += content(self._stops.flush())
        num_held = self._stops.num_held
        return ParsedText(
            pieces,
            num_held=num_held + self._num_unparsed if num_held else 0,
            # It repeats a call: the message ends here.
            is_complete=self._calls.is_repeating,
        )

    def _parsed(self, text: str, is_last: bool, is_cut: bool) -> list[Piece]:
        if self._parser is None:
            return content(text)
        pieces = self._parser.push(text) if text else []
        if not is_last:
            return self._ids.push(self._calls.push(pieces))
        pieces = self._calls.push(joined(pieces + self._parser.finish(is_cut=is_cut)))
        pieces = self._ids.push(pieces + self._calls.finish())
        return pieces + self._ids.finish()

    @property
    def _num_unparsed(self) -> int:
        return self._parser.num_held if self._parser else 0

    def has_called(self, reason: FinishReason) -> bool:
        """Whether the message ended with complete calls."""
        return bool(self._num_calls) and reason is FinishReason.STOP


def content(text: str) -> list[Piece]:
    return [Content(text)] if text else []


class Turn(msgspec.Struct, frozen=True):
    """A submitted answer, queued or running. The caller must close `deltas`, even if it never
    iterates them."""

    prompt: Sequence[int]  # token ids
    readers: list[ChoiceReader]  # one per choice
    deltas: Deltas
    left_out: Sequence[str] = ()  # paths of requirements that are not enforced
    num_image_tokens: int = 0  # of the prompt's
    num_audio_tokens: int = 0

    @property
    def num_media(self) -> tuple[int, int]:
        return self.num_image_tokens, self.num_audio_tokens

    @property
    def num_prompt(self) -> int:
        return len(self.prompt)


async def begin_turn(
    model: "TextModel", wanted: TurnRequest, client: str, before: list[int] | None = None
) -> Turn:
    """Renders the messages, compiles the answer's grammar, chooses its parser and submits it all.
    `before`: token ids of an earlier prompt and its answer, which the messages go on from.

    Raises the errors of `TextModel`'s methods before anything is generated: InvalidRequest,
    UnsupportedParameter, ContextLengthExceeded, QueueFull.
    """
    use = wanted.answer.use
    is_free = not use.is_required and wanted.answer.format is None
    prompt = await model.prompts.chat(
        wanted.messages, wanted.template_kwargs, use.tools, shown=wanted.shown
    )
    compiled = await model.grammars.compile(wanted.answer, prompt, client)
    ids = model.prompts.after(before, prompt.ids) if before else prompt.ids
    num_before = len(ids) - len(prompt.ids)
    pictures = tuple(one._replace(at=one.at + num_before) for one in prompt.pictures)
    parsers = [
        parser_of(
            prompt.voice,
            tools=use.tools,
            auto=use if is_free else None,
            is_thinking=prompt.is_thinking,
            is_continued=prompt.is_continued,
        )
        for _ in range(wanted.params.num_choices)
    ]
    stops = Stops(() if use.is_required else wanted.params.stops)  # never cut a required call
    used = ids_in(wanted.messages)
    readers = [ChoiceReader(parser, stops, CallIds(prompt.voice.calls, used)) for parser in parsers]
    deltas = model.generate(
        TextRequest(
            prompts=[ids],
            params=wanted.params,
            border=prompt.border + num_before,
            pictures=pictures,
            readers=readers,
            grammar=compiled.grammar,
            spelled_tokens=model.prompts.format_tokens if parsers[0] else frozenset(),
            client=client,
        )
    )
    num_tokens = {False: 0, True: 0}  # by whether they are of a sound
    for one in pictures:
        num_tokens[one.picture.is_sound] += one.picture.num_tokens
    return Turn(ids, readers, deltas, compiled.left_out, num_tokens[False], num_tokens[True])


def pieces_in(delta: OutputDelta) -> list[Piece]:
    """The pieces that a turn's reader parsed from the delta's text."""
    return cast(list[Piece], delta.pieces)  # opaque objects to the engine


async def pieces_of(turn: Turn) -> AsyncGenerator[tuple[OutputDelta, list[Piece]], None]:
    """Yields each delta with its pieces; closes the turn's deltas at the end."""
    async with contextlib.aclosing(turn.deltas):
        async for step in turn.deltas:
            for delta in step:
                yield delta, pieces_in(delta)
