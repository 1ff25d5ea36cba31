"""POST /v1/chat/completions."""

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.body import read_body
from localinfra.api.params import GenerationFields, MaxTokens, TopLogprobs, log_user
from localinfra.api.render import json_response
from localinfra.api.sse import EventStream, until_disconnect
from localinfra.api.state import limits, runtime
from localinfra.api.structured import NamedTool, ToolDefinition, tool_use
from localinfra.api.usage import Usage, UsageMeter
from localinfra.chat.answer import Answer, ToolUse, parser_of
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
from localinfra.chat.template import check_kwargs
from localinfra.engine.output import OutputDelta, ScoredToken
from localinfra.engine.request import FinishReason, TextRequest
from localinfra.errors import InvalidRequest, UnsupportedParameter

if TYPE_CHECKING:
    from localinfra.text import TextModel  # brings numpy, which only a loaded model needs

ROUTE = "/v1/chat/completions"

encode = msgspec.json.Encoder().encode


class ChatCompletionRequest(GenerationFields, frozen=True, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool = False
    top_logprobs: TopLogprobs | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] = msgspec.field(default_factory=dict)
    tools: list[ToolDefinition] = msgspec.field(default_factory=list)
    tool_choice: str | NamedTool | None = None
    parallel_tool_calls: bool = True
    modalities: list[str] = msgspec.field(default_factory=list)

    def check(self) -> None:
        super().check()
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true.", "top_logprobs")
        check_kwargs(self.chat_template_kwargs)
        if any(modality != "text" for modality in self.modalities):
            raise UnsupportedParameter("Only text can be generated; leave it out.", "modalities")

    def answer(self) -> Answer:
        """What the answer's form must be. Raises InvalidRequest and UnsupportedParameter."""
        use = tool_use(self.tools, self.tool_choice, self.parallel_tool_calls)
        if use.is_required and self.answer_format:
            raise InvalidRequest(
                "An answer can't be a tool call and have a response_format; leave one of them out.",
                "tool_choice",
            )
        return Answer(self.answer_format, use)

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def template_kwargs(self) -> dict[str, object]:
        effort = {"reasoning_effort": self.reasoning_effort} if self.reasoning_effort else {}
        return {**effort, **self.chat_template_kwargs}


class TopLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float | None
    bytes: list[int]


class TokenLogprobEntry(msgspec.Struct, frozen=True):
    token: str
    logprob: float | None
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class Logprobs(msgspec.Struct, frozen=True):
    content: list[TokenLogprobEntry]
    refusal: None = None


class FunctionCall(msgspec.Struct, frozen=True):
    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True):
    id: str
    function: FunctionCall
    type: str = "function"


class AssistantMessage(msgspec.Struct, frozen=True):
    content: str | None
    role: str = "assistant"
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class Choice(msgspec.Struct, frozen=True):
    index: int
    message: AssistantMessage
    logprobs: Logprobs | None
    finish_reason: str


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class FunctionDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class ToolCallDelta(msgspec.Struct, frozen=True):
    index: int
    function: FunctionDelta
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True):
    index: int
    delta: Delta
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class ChatCompletionChunk(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType = UNSET


async def create_chat_completion(request: Request) -> Response:
    decoded = await read_body(request, ChatCompletionRequest, limits(request))
    body = decoded.value
    body.check()
    wanted = body.answer()
    log_user(request, body.user)
    model = await runtime(request).text_model(body.model, ROUTE)
    prompt = await model.chat_prompt(body.messages, body.template_kwargs, wanted.use.tools)
    grammar = await model.compile(wanted, prompt)
    parsers = [
        parser_of(
            prompt.voice,
            has_tools=bool(wanted.use.tools),
            is_thinking=prompt.is_thinking,
            is_continued=prompt.is_continued,
        )
        for _ in range(body.n)
    ]
    deltas = model.generate(
        TextRequest(
            prompts=[prompt.ids],
            max_tokens=body.max_tokens
            if body.max_completion_tokens is None
            else body.max_completion_tokens,
            sampling=body.sampling_params(),
            num_choices=body.n,
            stops=() if wanted.use.is_required else body.stops,  # a call can't end within
            top_logprobs=body.num_logprobs,
            grammar=grammar,
            marks=model.marks if parsers[0] else frozenset(),
        )
    )
    answer = ChatAnswer(model, body, len(prompt.ids), parsers, wanted.use)
    if body.stream:
        keepalive_s = runtime(request).settings.keepalive_s
        return EventStream(answer.chunks(deltas), decoded.headers, keepalive_s)
    completion = await until_disconnect(request.receive, answer.completion(deltas))
    return json_response(completion, headers=decoded.headers)


class ChoiceReader:
    """One choice's deltas → the parts of its message."""

    def __init__(self, parser: Parser | None, use: ToolUse):
        self._parser = parser
        self._use = use
        self._num_calls = 0

    def read(self, delta: OutputDelta) -> list[Piece]:
        if self._parser is None:
            return [Content(delta.text)] if delta.text else []
        pieces = self._parser.push(delta.text) if delta.text else []
        if delta.finish_reason is not None:
            pieces += self._parser.finish()
        self._num_calls += sum(isinstance(piece, CallEnd) for piece in pieces)
        return pieces

    def finish_reason(self, reason: FinishReason) -> str:
        """OpenAI's: `stop` also where the client itself has named the function."""
        is_call = self._num_calls and reason is FinishReason.STOP and not self._use.is_named
        return "tool_calls" if is_call else reason


class MessageBuilder:
    """The parts of a message → the message."""

    def __init__(self) -> None:
        self._texts: dict[type, list[str]] = {Content: [], Thought: []}
        self._calls: list[tuple[str, list[str]]] = []
        self._num_complete = 0

    def add(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if isinstance(piece, CallStart):
                self._calls.append((piece.name, []))
            elif isinstance(piece, CallArguments):
                self._calls[-1][1].append(piece.text)
            elif isinstance(piece, CallEnd):
                self._num_complete += 1
            else:
                self._texts[type(piece)].append(piece.text)

    def message(self) -> AssistantMessage:
        """A call that was cut off by max_tokens is left out: no one could parse it."""
        content, thought = "".join(self._texts[Content]), "".join(self._texts[Thought])
        calls = [
            ToolCall(call_id(), FunctionCall(name, "".join(arguments)))
            for name, arguments in self._calls[: self._num_complete]
        ]
        return AssistantMessage(
            content=None if calls and not content else content,
            reasoning_content=thought or UNSET,
            tool_calls=calls or UNSET,
        )


class DeltaWriter:
    """The parts of a message → OpenAI's deltas."""

    def __init__(self) -> None:
        self._num_calls = 0

    def delta(self, piece: Piece) -> Delta | None:
        if isinstance(piece, Content):
            return Delta(content=piece.text)
        if isinstance(piece, Thought):
            return Delta(reasoning_content=piece.text)
        if isinstance(piece, CallStart):
            self._num_calls += 1
            function = FunctionDelta(name=piece.name, arguments="")
            return Delta(tool_calls=[self._call(function, id=call_id(), type="function")])
        if isinstance(piece, CallArguments):
            return Delta(tool_calls=[self._call(FunctionDelta(arguments=piece.text))])
        return None

    def _call(self, function: FunctionDelta, **first: str) -> ToolCallDelta:
        return ToolCallDelta(self._num_calls - 1, function, **first)


def call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


class ChatAnswer:
    """Deltas of one request → a completion or its chunks."""

    def __init__(
        self,
        model: "TextModel",
        body: ChatCompletionRequest,
        num_prompt: int,
        parsers: list[Parser | None],
        use: ToolUse,
    ):
        self._model = model
        self._body = body
        self._readers = [ChoiceReader(parser, use) for parser in parsers]
        self._meter = UsageMeter(model.entry.price, [num_prompt], body.n)
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())

    async def completion(self, deltas: AsyncGenerator[list[OutputDelta], None]) -> ChatCompletion:
        builders = [MessageBuilder() for _ in self._readers]
        scored: list[list[ScoredToken]] = [[] for _ in builders]
        reasons = ["" for _ in builders]
        async with contextlib.aclosing(deltas):
            async for step in deltas:
                for delta in step:
                    at = delta.choice
                    self._meter.add(delta)
                    builders[at].add(self._readers[at].read(delta))
                    scored[at] += delta.scored
                    if delta.finish_reason is not None:
                        reasons[at] = self._readers[at].finish_reason(delta.finish_reason)
        choices = [
            Choice(index, builder.message(), self._logprobs(tokens), reason)
            for index, (builder, tokens, reason) in enumerate(
                zip(builders, scored, reasons, strict=True)
            )
        ]
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model.name,
            choices=choices,
            usage=self._meter.usage(),
        )

    async def chunks(
        self, deltas: AsyncGenerator[list[OutputDelta], None]
    ) -> AsyncGenerator[list[bytes], None]:
        """Encoded chunks, those of one step together."""
        writers = [DeltaWriter() for _ in self._readers]
        async with contextlib.aclosing(deltas):
            yield [
                self._chunk(ChunkChoice(index, Delta(role="assistant", content="")))
                for index in range(self._body.n)
            ]
            async for step in deltas:
                if events := [
                    event for delta in step for event in self._events(delta, writers[delta.choice])
                ]:
                    yield events
        if self._body.includes_usage:
            yield [self._chunk(usage=self._meter.usage())]

    def _events(self, delta: OutputDelta, writer: DeltaWriter) -> list[bytes]:
        """The chunks with what was added, and the one that ends the choice."""
        self._meter.add(delta)
        reader = self._readers[delta.choice]
        parts = [part for piece in reader.read(delta) if (part := writer.delta(piece))]
        if delta.scored and not parts:
            parts = [Delta(content="")]  # tokens whose text is still held back
        events = []
        for at, part in enumerate(parts):
            logprobs = None if at else self._logprobs(delta.scored)
            events.append(self._chunk(ChunkChoice(delta.choice, part, logprobs)))
        if delta.finish_reason is not None:
            reason = reader.finish_reason(delta.finish_reason)
            last = ChunkChoice(delta.choice, Delta(), finish_reason=reason)
            events.append(self._chunk(last, usage=self._meter.usage()))
        return events

    def _chunk(self, *choices: ChunkChoice, usage: Usage | UnsetType = UNSET) -> bytes:
        chunk = ChatCompletionChunk(
            id=self._id,
            created=self._created,
            model=self._model.name,
            choices=list(choices),
            usage=usage,
        )
        return encode(chunk)

    def _logprobs(self, scored: list[ScoredToken] | tuple[ScoredToken, ...]) -> Logprobs | None:
        if not self._body.logprobs:
            return None
        return Logprobs([self._entry(token) for token in scored])

    def _entry(self, scored: ScoredToken) -> TokenLogprobEntry:
        logprob = scored.logprob
        data = self._model.token_bytes(logprob.token)
        return TokenLogprobEntry(
            token=data.decode("utf-8", "replace"),
            logprob=logprob.logprob,
            bytes=list(data),
            top_logprobs=[self._alternative(*pair) for pair in logprob.top],
        )

    def _alternative(self, token: int, logprob: float) -> TopLogprob:
        data = self._model.token_bytes(token)
        return TopLogprob(data.decode("utf-8", "replace"), logprob, list(data))
