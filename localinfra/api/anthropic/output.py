"""Anthropic's messages, content blocks and stream events, built from an answer's pieces.

Shapes: https://platform.claude.com/docs/en/api/messages and
https://platform.claude.com/docs/en/build-with-claude/streaming. Pure.
"""

import itertools
from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from localinfra.api.generation.carried import carried
from localinfra.api.http.sse import NamedEvent
from localinfra.chance import random_hex
from localinfra.chat.formats.pieces import (
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Piece,
    Thought,
)
from localinfra.chat.partial import completed_object

encode = msgspec.json.Encoder().encode


class TextBlock(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    text: str


class ThinkingBlock(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    thinking: str
    signature: str = ""  # carries hidden thinking; visible thinking is not verified


class ToolUseBlock(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object"})]


ContentBlock = TextBlock | ThinkingBlock | ToolUseBlock


class MessagesUsage(msgspec.Struct, frozen=True):
    """The first three fields add up to the prompt's tokens."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    estimated_cost: float  # USD


class MessagesAnswer(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    id: str
    role: str = "assistant"
    model: str
    content: list[ContentBlock]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessagesUsage


class MessagesEvent(msgspec.Struct, frozen=True, tag_field="type"):
    """An event of a stream. Its tag is also its name."""

    def named(self) -> NamedEvent:
        return str(self.__struct_config__.tag), encode(self)


class MessageStart(MessagesEvent, frozen=True, tag="message_start"):
    message: MessagesAnswer


class ContentBlockStart(MessagesEvent, frozen=True, tag="content_block_start"):
    index: int
    content_block: ContentBlock


class MessagesTextDelta(msgspec.Struct, frozen=True, tag_field="type", tag="text_delta"):
    text: str


class ThinkingDelta(msgspec.Struct, frozen=True, tag_field="type", tag="thinking_delta"):
    thinking: str


class SignatureDelta(msgspec.Struct, frozen=True, tag_field="type", tag="signature_delta"):
    signature: str


class InputJsonDelta(msgspec.Struct, frozen=True, tag_field="type", tag="input_json_delta"):
    partial_json: str


class ContentBlockDelta(MessagesEvent, frozen=True, tag="content_block_delta"):
    index: int
    delta: MessagesTextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class ContentBlockStop(MessagesEvent, frozen=True, tag="content_block_stop"):
    index: int


class Stop(msgspec.Struct, frozen=True):
    stop_reason: str | None  # null: not stopped yet
    stop_sequence: str | None = None


class MessageDelta(MessagesEvent, frozen=True, tag="message_delta"):
    delta: Stop
    usage: MessagesUsage


class MessageStop(MessagesEvent, frozen=True, tag="message_stop"):
    pass


class Ping(MessagesEvent, frozen=True, tag="ping"):
    """A heartbeat, allowed at any time."""


def content_blocks(pieces: Iterable[Piece], hides_thinking: bool) -> list[ContentBlock]:
    """An answer's pieces as blocks. If max_tokens cut off a call, its input holds only the complete
    parts, as clients read a stream that ends there."""
    blocks: list[ContentBlock] = []
    call, arguments = CallStart(""), ""
    is_open = False
    for _, run in itertools.groupby(pieces, key=type):
        first, *others = run
        if isinstance(first, Content):
            blocks.append(TextBlock(text_of([first, *others])))
        elif isinstance(first, Thought):
            thought = text_of([first, *others])
            shown = ("", carried(thought)) if hides_thinking else (thought,)
            blocks.append(ThinkingBlock(*shown))
        elif isinstance(first, CallStart):
            call, arguments, is_open = first, "{}", True
        elif isinstance(first, CallArguments):
            arguments = text_of([first, *others])
        else:
            # The grammar ensures that it is an object.
            blocks.append(tool_use(call, arguments))
            is_open = False
    if is_open:
        blocks.append(tool_use(call, completed_object(arguments)))
    return blocks


def text_of(pieces: Iterable[Piece]) -> str:
    return "".join(
        piece.text for piece in pieces if isinstance(piece, Content | Thought | CallArguments)
    )


class BlockWriter:
    """An answer's pieces → events of its blocks, one open at a time."""

    def __init__(self, hides_thinking: bool):
        self._hides_thinking = hides_thinking
        self._num_blocks = 0
        self._open: type[Piece] | None = None  # the type of piece in the open block
        self._hidden: list[str] = []  # thinking in that block

    def events(self, piece: Piece) -> list[MessagesEvent]:
        if isinstance(piece, CallEnd):
            return self.close()
        if isinstance(piece, CallArguments):
            return [self._delta(InputJsonDelta(piece.text))]
        if isinstance(piece, CallStart):
            return self._start(piece, tool_use(piece, "{}"))
        if isinstance(piece, Content):
            begun = self._start(piece, TextBlock(""))
            return [*begun, self._delta(MessagesTextDelta(piece.text))]
        begun = self._start(piece, ThinkingBlock(""))
        if self._hides_thinking:
            self._hidden.append(piece.text)
            return begun
        return [*begun, self._delta(ThinkingDelta(piece.text))]

    def close(self) -> list[MessagesEvent]:
        """Ends the open block, if any."""
        if self._open is None:
            return []
        signature = []
        if self._open is Thought:
            signature = [self._delta(SignatureDelta(carried("".join(self._hidden))))]
        self._open, self._hidden = None, []
        return [*signature, ContentBlockStop(self._num_blocks - 1)]

    def _start(self, piece: Piece, block: ContentBlock) -> list[MessagesEvent]:
        """Begins a block, unless the piece continues the open one."""
        if type(piece) is self._open:
            return []
        closing = self.close()
        self._open = type(piece)
        self._num_blocks += 1
        return [*closing, ContentBlockStart(self._num_blocks - 1, block)]

    def _delta(
        self, delta: MessagesTextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta
    ) -> ContentBlockDelta:
        return ContentBlockDelta(self._num_blocks - 1, delta)


def tool_use(call: CallStart, arguments: str) -> ToolUseBlock:
    id = call.id or f"toolu_{random_hex(24)}"
    return ToolUseBlock(id, call.name, msgspec.Raw(arguments.encode()))
