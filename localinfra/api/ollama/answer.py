"""Answers of /api/chat and /api/generate: an answer's deltas → Ollama's objects, whole or streamed.

Durations are in nanoseconds.
"""

import contextlib
import datetime
import time
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from localinfra.api.generation.logprobs import TokenLogprobEntry, token_logprob
from localinfra.api.generation.tools import call_id
from localinfra.api.generation.usage import UsageMeter
from localinfra.api.http.held import holding
from localinfra.chat.formats.pieces import (
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Piece,
    Thought,
)
from localinfra.chat.partial import completed_object
from localinfra.engine.deltas import Deltas
from localinfra.engine.output import OutputDelta
from localinfra.engine.request import FinishReason
from localinfra.text.turn import pieces_in

if TYPE_CHECKING:
    from localinfra.text.model import TextModel  # brings numpy, which only a loaded model needs

encode = msgspec.json.Encoder().encode


class CalledFunction(msgspec.Struct, frozen=True):
    name: str
    arguments: Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object"})]


class OllamaCall(msgspec.Struct, frozen=True):
    id: str
    function: CalledFunction


class Said(msgspec.Struct, frozen=True):
    """An answer or a part of it."""

    content: str = ""
    thinking: str = ""
    tool_calls: Sequence[OllamaCall] = ()

    @property
    def is_empty(self) -> bool:
        return not (self.content or self.thinking or self.tool_calls)


class OllamaReply(msgspec.Struct, frozen=True, kw_only=True):
    """What all answers have, and all lines of a stream; the last one has the fields from
    `done_reason` on."""

    model: str
    created_at: datetime.datetime
    logprobs: list[Annotated[msgspec.Raw, holding(TokenLogprobEntry)]] | UnsetType = UNSET
    done: bool = False
    done_reason: str | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET  # tokens
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET
    context: Sequence[int] | UnsetType = UNSET  # of /api/generate, for the next request


class PieceReader:
    """An answer's pieces → its parts. Calls are sent whole, as Ollama has it."""

    def __init__(self) -> None:
        self._call: CallStart | None = None  # whose arguments are being written
        self._arguments: list[str] = []

    def read(self, pieces: Sequence[Piece], *, is_last: bool) -> Said:
        content = "".join(piece.text for piece in pieces if isinstance(piece, Content))
        thinking = "".join(piece.text for piece in pieces if isinstance(piece, Thought))
        calls = []
        for piece in pieces:
            if isinstance(piece, CallStart):
                self._call, self._arguments = piece, []
            elif isinstance(piece, CallArguments):
                self._arguments.append(piece.text)
            elif isinstance(piece, CallEnd):
                calls.append(self._called("".join(self._arguments) or "{}"))
        if is_last and self._call is not None:  # it was cut off
            calls.append(self._called(completed_object("".join(self._arguments))))
        return Said(content, thinking, calls)

    def _called(self, arguments: str) -> OllamaCall:
        """The grammar ensures that the arguments are an object."""
        call, self._call = self._call, None
        assert call is not None
        function = CalledFunction(call.name, msgspec.Raw(arguments.encode()))
        return OllamaCall(call.id or call_id(), function)


class Stopwatch:
    """When things happened to one request, on time.perf_counter()."""

    def __init__(self, started_s: float):
        """`started_s`: when it arrived."""
        self._started_s = self._loaded_s = started_s
        self._first_s: float | None = None

    def loaded(self) -> None:
        """The model is ready."""
        self._loaded_s = time.perf_counter()

    def token(self) -> None:
        """One was generated."""
        if self._first_s is None:
            self._first_s = time.perf_counter()

    def durations(self) -> "Durations":
        """So far. Each is at least 1: clients divide by them."""
        now_s = time.perf_counter()
        first_s = now_s if self._first_s is None else self._first_s
        return Durations(
            total=nanoseconds(now_s - self._started_s),
            load=nanoseconds(self._loaded_s - self._started_s),
            prompt=nanoseconds(first_s - self._loaded_s),
            generation=nanoseconds(now_s - first_s),
        )


class Durations(msgspec.Struct, frozen=True):
    """Nanoseconds; the last three add up to the first."""

    total: int
    load: int  # and whatever else precedes the prompt
    prompt: int  # the queue included
    generation: int


def nanoseconds(seconds: float) -> int:
    return max(1, round(seconds * 1e9))


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class OllamaAnswer:
    """One request's deltas → a reply or its lines. Subclasses define where what was said stands."""

    def __init__(self, model: "TextModel", deltas: Deltas, meter: UsageMeter, watch: Stopwatch):
        self.model = model
        self.deltas = deltas
        self._meter = meter
        self._watch = watch
        self._reader = PieceReader()

    def reply(self, said: Said, frame: OllamaReply) -> OllamaReply:
        """The frame with what was said in it."""
        raise NotImplementedError

    def pieces(self, delta: OutputDelta) -> Sequence[Piece]:
        return pieces_in(delta)

    async def context(self, content: str) -> Sequence[int] | UnsetType:
        """The last reply's `context`; `content`: the whole answer's."""
        return UNSET

    async def whole(self) -> OllamaReply:
        parts: list[Said] = []
        scores: list[msgspec.Raw] = []
        reason: FinishReason | None = None
        async with contextlib.aclosing(self._steps()) as steps:
            async for said, scored, ended in steps:
                parts.append(said)
                scores += scored
                reason = ended
        said = joined(parts)
        return self.reply(said, await self._ending(reason, said.content, scores))

    async def lines(self) -> AsyncGenerator[list[bytes], None]:
        """Yields the lines of one step together."""
        content: list[str] = []
        async with contextlib.aclosing(self._steps()) as steps:
            async for said, scored, reason in steps:
                content.append(said.content)
                lines = []
                if not said.is_empty or scored:
                    lines.append(encode(self.reply(said, self._frame(scored))))
                if reason is not None:
                    ending = await self._ending(reason, "".join(content))
                    lines.append(encode(self.reply(Said(), ending)))
                if lines:
                    yield lines

    def heartbeat(self) -> bytes:
        """A line that adds nothing."""
        return encode(self.reply(Said(), self._frame()))

    async def _steps(
        self,
    ) -> AsyncGenerator[tuple[Said, list[msgspec.Raw], FinishReason | None], None]:
        """Yields what each step added, with its logprobs, and why it was the last."""
        async with contextlib.aclosing(self.deltas):
            async for step in self.deltas:
                for delta in step:
                    self._meter.add(delta)
                    self._watch.token()
                pieces = [piece for delta in step for piece in self.pieces(delta)]
                scored = [token for delta in step for token in delta.scored]
                reason = next((d.finish_reason for d in step if d.finish_reason), None)
                said = self._reader.read(pieces, is_last=reason is not None)
                yield said, [token_logprob(self.model, token) for token in scored], reason

    def _frame(self, scores: list[msgspec.Raw] | None = None) -> OllamaReply:
        return OllamaReply(model=self.model.name, created_at=now(), logprobs=scores or UNSET)

    async def _ending(
        self, reason: FinishReason | None, content: str, scores: list[msgspec.Raw] | None = None
    ) -> OllamaReply:
        used, times = self._meter.usage(), self._watch.durations()
        return msgspec.structs.replace(
            self._frame(scores),
            done=True,
            done_reason=reason or FinishReason.STOP,
            total_duration=times.total,
            load_duration=times.load,
            prompt_eval_count=used.prompt_tokens,
            prompt_eval_duration=times.prompt,
            eval_count=used.completion_tokens,
            eval_duration=times.generation,
            context=await self.context(content),
        )


def joined(parts: Sequence[Said]) -> Said:
    return Said(
        "".join(part.content for part in parts),
        "".join(part.thinking for part in parts),
        [call for part in parts for call in part.tool_calls],
    )
