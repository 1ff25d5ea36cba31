"""An answer's pieces → output items of the Responses API, and their events.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
from msgspec import UNSET

from localinfra.api.generation.carried import carried
from localinfra.api.generation.logprobs import TokenLogprobEntry
from localinfra.api.generation.tools import call_id
from localinfra.api.http.held import holding
from localinfra.api.openai.responses.items import (
    READABLE,
    CompactionItem,
    FunctionCallItem,
    MessageItem,
    OutputItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    Status,
    new_id,
)
from localinfra.api.openai.responses.tools import ToolName
from localinfra.chat.formats.pieces import (
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Piece,
    Thought,
)
from localinfra.engine.output import OutputDelta, ScoredToken
from localinfra.errors import NoSummary


class ResponsesEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    sequence_number: int = 0  # from 0 on

    @property
    def kind(self) -> str:
        return str(self.__struct_config__.tag)


class OutputEvent(ResponsesEvent, frozen=True, kw_only=True):
    output_index: int


class ItemAdded(OutputEvent, frozen=True, kw_only=True, tag="response.output_item.added"):
    item: OutputItem


class ItemDone(OutputEvent, frozen=True, kw_only=True, tag="response.output_item.done"):
    item: OutputItem


class ItemEvent(OutputEvent, frozen=True, kw_only=True):
    item_id: str


class PartEvent(ItemEvent, frozen=True, kw_only=True):
    content_index: int = 0  # items here have one part


class PartAdded(PartEvent, frozen=True, kw_only=True, tag="response.content_part.added"):
    part: OutputText | ReasoningText


class PartDone(PartEvent, frozen=True, kw_only=True, tag="response.content_part.done"):
    part: OutputText | ReasoningText


class ResponsesTextDelta(PartEvent, frozen=True, kw_only=True, tag="response.output_text.delta"):
    delta: str
    logprobs: Sequence[Annotated[msgspec.Raw, holding(TokenLogprobEntry)]] = ()


class TextDone(PartEvent, frozen=True, kw_only=True, tag="response.output_text.done"):
    text: str
    logprobs: Sequence[Annotated[msgspec.Raw, holding(TokenLogprobEntry)]] = ()


class ReasoningDelta(PartEvent, frozen=True, kw_only=True, tag="response.reasoning_text.delta"):
    delta: str


class ReasoningDone(PartEvent, frozen=True, kw_only=True, tag="response.reasoning_text.done"):
    text: str


class ArgumentsDelta(
    ItemEvent, frozen=True, kw_only=True, tag="response.function_call_arguments.delta"
):
    delta: str


class ArgumentsDone(
    ItemEvent, frozen=True, kw_only=True, tag="response.function_call_arguments.done"
):
    name: str
    arguments: str


# --- open items -----------------------------------------------------------------------------------


class OpenItem:
    """An item that is still being written, and its events. Subclasses know its shape."""

    kind = ""  # the prefix of its id

    def __init__(self, output_index: int):
        self.id = new_id(self.kind)
        self._output_index = output_index
        self._texts: list[str] = []

    @property
    def _text(self) -> str:
        return "".join(self._texts)

    def begin(self) -> Iterator[ResponsesEvent]:
        yield ItemAdded(output_index=self._output_index, item=self.item("in_progress"))

    def add(self, text: str, logprobs: Sequence[msgspec.Raw] = ()) -> ResponsesEvent:
        self._texts.append(text)
        return self._delta(text, logprobs)

    def end(self, status: Status) -> Iterator[ResponsesEvent]:
        yield self._done()
        yield ItemDone(output_index=self._output_index, item=self.item(status))

    def item(self, status: Status) -> OutputItem:
        """The item as it stands. In progress it has no content yet."""
        raise NotImplementedError

    def _delta(self, text: str, logprobs: Sequence[msgspec.Raw]) -> ResponsesEvent:
        raise NotImplementedError

    def _done(self) -> ResponsesEvent:
        raise NotImplementedError

    @property
    def _at(self) -> dict[str, Any]:
        """Fields of all its events."""
        return {"output_index": self._output_index, "item_id": self.id}


class OpenCall(OpenItem):
    kind = "fc"

    def __init__(self, output_index: int, name: ToolName, id: str):
        """`id`: the model's own, or "" for a new one."""
        super().__init__(output_index)
        self._name = name.name
        self._namespace = name.namespace or UNSET
        self._call_id = id or call_id()

    def item(self, status: Status) -> FunctionCallItem:
        return FunctionCallItem(
            id=self.id,
            status=status,
            call_id=self._call_id,
            name=self._name,
            namespace=self._namespace,
            arguments=self._text,
        )

    def _delta(self, text: str, logprobs: Sequence[msgspec.Raw]) -> ResponsesEvent:
        return ArgumentsDelta(**self._at, delta=text)

    def _done(self) -> ResponsesEvent:
        return ArgumentsDone(**self._at, name=self._name, arguments=self._text)


class OpenText(OpenItem):
    """An item with one part, which has events too."""

    def begin(self) -> Iterator[ResponsesEvent]:
        yield from super().begin()
        yield PartAdded(**self._at, part=self._part())

    def end(self, status: Status) -> Iterator[ResponsesEvent]:
        done, item_done = super().end(status)
        yield done
        yield PartDone(**self._at, part=self._part())
        yield item_done

    def _part(self) -> OutputText | ReasoningText:
        raise NotImplementedError


class OpenMessage(OpenText):
    kind = "msg"

    def __init__(self, output_index: int):
        super().__init__(output_index)
        self._logprobs: list[msgspec.Raw] = []

    def item(self, status: Status) -> MessageItem:
        content = () if status == "in_progress" else (self._part(),)
        return MessageItem(id=self.id, status=status, role="assistant", content=content)

    def _part(self) -> OutputText:
        return OutputText(self._text, logprobs=tuple(self._logprobs))

    def _delta(self, text: str, logprobs: Sequence[msgspec.Raw]) -> ResponsesEvent:
        self._logprobs += logprobs
        return ResponsesTextDelta(**self._at, delta=text, logprobs=logprobs)

    def _done(self) -> ResponsesEvent:
        return TextDone(**self._at, text=self._text, logprobs=tuple(self._logprobs))


class OpenReasoning(OpenText):
    kind = "rs"

    def __init__(self, output_index: int, carries: bool):
        super().__init__(output_index)
        self._carries = carries

    def item(self, status: Status) -> ReasoningItem:
        if status == "in_progress":
            return ReasoningItem(id=self.id, status=status)
        return ReasoningItem(
            id=self.id,
            status=status,
            content=(self._part(),),
            encrypted_content=carried(self._text) if self._carries else None,
        )

    def _part(self) -> ReasoningText:
        return ReasoningText(self._text)

    def _delta(self, text: str, logprobs: Sequence[msgspec.Raw]) -> ResponsesEvent:
        return ReasoningDelta(**self._at, delta=text)

    def _done(self) -> ResponsesEvent:
        return ReasoningDone(**self._at, text=self._text)


class OpenCompaction(OpenItem):
    """The only item that is written as a whole."""

    kind = "cmp"

    def __init__(self, output_index: int, summary: str):
        super().__init__(output_index)
        self._texts = [READABLE, summary]

    def end(self, status: Status) -> Iterator[ResponsesEvent]:
        yield ItemDone(output_index=self._output_index, item=self.item(status))

    def item(self, status: Status) -> CompactionItem:
        return CompactionItem(id=self.id, status=status, encrypted_content=self._text)


# --- the whole output -----------------------------------------------------------------------------


class OutputWriter:
    """Writes an answer's items one after the other. An item's deltas add up to its content."""

    def __init__(
        self, names: Mapping[str, ToolName] = MappingProxyType({}), *, carries: bool = False
    ) -> None:
        """`names`: the client's names of functions, by the flat names the model uses. `carries`:
        the client wants `encrypted_content`."""
        self._names = names
        self._carries = carries
        self.items: list[OutputItem] = []  # completed
        self._open: OpenItem | None = None

    def write(
        self, pieces: Sequence[Piece], logprobs: Sequence[msgspec.Raw] = ()
    ) -> list[ResponsesEvent]:
        """`logprobs`: those of the content among the pieces."""
        return list(self._write(pieces, logprobs))

    def finish(self, *, is_cut: bool) -> list[ResponsesEvent]:
        """`is_cut`: max_output_tokens or a failure ended the answer, not the model.

        Adds an empty message if the model produced none, since clients expect one.
        """
        return list(self._finish(is_cut))

    def _write(
        self, pieces: Sequence[Piece], logprobs: Sequence[msgspec.Raw]
    ) -> Iterator[ResponsesEvent]:
        for piece in pieces:
            if isinstance(piece, Content):
                if not isinstance(self._open, OpenMessage):
                    yield from self._end("completed")
                    yield from self._begin(OpenMessage(len(self.items)))
                yield self._add(piece.text, logprobs)
                logprobs = ()
            elif isinstance(piece, Thought):
                if not isinstance(self._open, OpenReasoning):
                    yield from self._end("completed")
                    yield from self._begin(OpenReasoning(len(self.items), self._carries))
                yield self._add(piece.text)
            elif isinstance(piece, CallStart):
                yield from self._end("completed")
                name = self._names.get(piece.name, ToolName(piece.name))
                yield from self._begin(OpenCall(len(self.items), name, piece.id))
            elif isinstance(piece, CallArguments):
                yield self._add(piece.text)
            elif isinstance(piece, CallEnd):
                yield from self._end("completed")

    def _finish(self, is_cut: bool) -> Iterator[ResponsesEvent]:
        is_half = is_cut or isinstance(self._open, OpenCall)
        yield from self._end("incomplete" if is_half else "completed")
        if not is_cut and all(isinstance(item, ReasoningItem) for item in self.items):
            yield from self._begin(OpenMessage(len(self.items)))
            yield from self._end("completed")

    def _begin(self, item: OpenItem) -> Iterator[ResponsesEvent]:
        self._open = item
        yield from item.begin()

    def _add(self, text: str, logprobs: Sequence[msgspec.Raw] = ()) -> ResponsesEvent:
        assert self._open is not None
        return self._open.add(text, logprobs)

    def _end(self, status: Status) -> Iterator[ResponsesEvent]:
        if self._open is not None:
            yield from self._open.end(status)
            self.items.append(self._open.item(status))
            self._open = None


class CompactionWriter(OutputWriter):
    """Writes the content of the answer as a summary. Reasoning and calls are no part of it."""

    def __init__(self) -> None:
        super().__init__()
        self._texts: list[str] = []

    def _write(
        self, pieces: Sequence[Piece], logprobs: Sequence[msgspec.Raw]
    ) -> Iterator[ResponsesEvent]:
        self._texts += [piece.text for piece in pieces if isinstance(piece, Content)]
        return iter(())

    def _finish(self, is_cut: bool) -> Iterator[ResponsesEvent]:
        """A summary that was cut off still serves. Raises NoSummary."""
        summary = "".join(self._texts).strip()
        if not summary:
            raise NoSummary
        yield from self._begin(OpenCompaction(0, summary))
        yield from self._end("completed")


class TokenKinds:
    """Tells the reasoning tokens of an answer from its content tokens.

    A token belongs to the next piece, since text that may become a marker is held back. If a step
    ends the reasoning and goes on, all its tokens count as reasoning.
    """

    def __init__(self) -> None:
        self.num_reasoning = 0
        self._num_seen = 0
        self._scored: list[ScoredToken] = []

    def content_of(self, delta: OutputDelta, pieces: Sequence[Piece]) -> list[ScoredToken]:
        """The scored tokens of the content among the pieces."""
        self._scored += delta.scored
        if not pieces:
            return []
        if any(isinstance(piece, Thought) for piece in pieces):
            self.num_reasoning += delta.num_generated - self._num_seen
        self._num_seen = delta.num_generated
        scored, self._scored = self._scored, []
        return scored if any(isinstance(piece, Content) for piece in pieces) else []
