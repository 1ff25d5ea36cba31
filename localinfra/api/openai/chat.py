"""POST /v1/chat/completions."""

import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.generation.logprobs import token_logprob
from localinfra.api.generation.params import (
    GenerationFields,
    MaxTokens,
    ShortName,
    TemplateKwargs,
    TopLogprobs,
    given,
    kwarg_paths,
    log_user,
)
from localinfra.api.generation.tools import SentTools, ToolChoice, Tools, read_tools, tool_use
from localinfra.api.generation.usage import Charge, Usage, UsageMeter, charge_of
from localinfra.api.http.body import read_body
from localinfra.api.http.pieces import PiecesResponse, with_list
from localinfra.api.http.sse import EventStream, until_disconnect
from localinfra.api.http.state import caller_of, default_seed, limits, runtime
from localinfra.chance import random_hex
from localinfra.chat.answer import Answer
from localinfra.chat.formats.pieces import CallArguments, CallStart, Content, Piece, Thought
from localinfra.chat.messages import MAX_MESSAGES, Message, left_out_calls
from localinfra.chat.template import check_kwargs
from localinfra.engine.output import OutputDelta, ScoredToken
from localinfra.errors import InvalidRequest, UnsupportedParameter
from localinfra.text.turn import (
    Said,
    SaidBuilder,
    Turn,
    TurnRequest,
    begin,
    call_id,
    pieces_of,
)

if TYPE_CHECKING:
    from localinfra.text.model import TextModel  # brings numpy, which only a loaded model needs

ROUTE = "/v1/chat/completions"

encode = msgspec.json.Encoder().encode


class ChatCompletionRequest(GenerationFields, frozen=True, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool = False
    top_logprobs: TopLogprobs | None = None
    reasoning_effort: ShortName | None = None
    chat_template_kwargs: TemplateKwargs = msgspec.field(default_factory=dict)
    tools: SentTools = msgspec.field(default_factory=list)
    tool_choice: ShortName | ToolChoice | None = None
    parallel_tool_calls: bool = True
    modalities: Annotated[list[ShortName], Meta(max_length=16)] = msgspec.field(
        default_factory=list
    )

    def check(self) -> None:
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true.", "top_logprobs")
        check_kwargs(self.chat_template_kwargs)
        if any(modality != "text" for modality in self.modalities):
            raise UnsupportedParameter("Only text can be generated; leave it out.", "modalities")

    @property
    def offered(self) -> Tools:
        """Raises InvalidRequest."""
        return read_tools(self.tools)

    def answer(self, tools: Tools | None = None) -> Answer:
        """What the answer's form must be; `tools` are those that are `offered`. Raises
        InvalidRequest and UnsupportedParameter."""
        tools = tools or self.offered
        use = tool_use(tools, self.tool_choice or None, self.parallel_tool_calls)
        if use.is_required and self.answer_format:
            raise InvalidRequest(
                "An answer can't be a tool call and have a response_format; leave one of them out.",
                "tool_choice",
            )
        return Answer(self.answer_format, use)

    @property
    def limit(self) -> int | None:
        """Tokens to generate at most; of both names the newer one counts."""
        newer = given(self.max_completion_tokens)
        return given(self.max_tokens) if newer is None else newer

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def template_kwargs(self) -> dict[str, object]:
        effort = {"reasoning_effort": self.reasoning_effort} if self.reasoning_effort else {}
        return {**effort, **self.chat_template_kwargs}

    @property
    def kwarg_paths(self) -> dict[str, str]:
        effort = {"reasoning_effort": "reasoning_effort"} if self.reasoning_effort else {}
        return {**effort, **kwarg_paths(self.chat_template_kwargs)}


class Logprobs(msgspec.Struct, frozen=True):
    content: list[msgspec.Raw]
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
    tools = body.offered
    wanted = body.answer(tools)
    log_user(request, body.user)
    model = await runtime(request).text_model(body.model, ROUTE)
    left_out = [*tools.left_out, *left_out_calls(body.messages)]
    decoded = decoded.ignoring([*left_out, *model.prompts.unread(body.kwarg_paths)], tools.unknown)
    charge = charge_of(request, model)
    turn = await begin(
        model,
        TurnRequest(
            messages=body.messages,
            answer=wanted,
            template_kwargs=body.template_kwargs,
            sampling=body.sampling_params(default_seed(request)),
            max_tokens=body.limit,
            num_choices=body.n,
            stops=body.stops,
            top_logprobs=body.num_logprobs,
        ),
        caller_of(request),
    )
    decoded = decoded.ignoring(turn.left_out)
    answer = ChatAnswer(model, body, turn, charge)
    if body.stream:
        keepalive_s = runtime(request).settings.keepalive_s
        return EventStream(answer.chunks(), decoded.headers, keepalive_s, turn.deltas)
    completion, choices = await until_disconnect(request.receive, answer.completion())
    return PiecesResponse(await with_list(completion, "choices", choices), decoded.headers)


def assistant_message(said: Said) -> AssistantMessage:
    calls = [ToolCall(call.id, FunctionCall(call.name, call.arguments)) for call in said.calls]
    return AssistantMessage(
        content=None if calls and not said.content else said.content,
        reasoning_content=said.thought or UNSET,
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


class ChatAnswer:
    """Deltas of one request → a completion or its chunks."""

    def __init__(self, model: "TextModel", body: ChatCompletionRequest, turn: Turn, charge: Charge):
        self._model = model
        self._body = body
        self._turn = turn
        self._meter = UsageMeter(charge, [turn.num_prompt], body.n)
        self._id = f"chatcmpl-{random_hex(32)}"
        self._created = int(time.time())

    async def completion(self) -> tuple[ChatCompletion, list[Choice]]:
        """The choices are not in it yet."""
        builders = [SaidBuilder() for _ in self._turn.readers]
        scored: list[list[msgspec.Raw]] = [[] for _ in builders]
        reasons = ["" for _ in builders]
        async with contextlib.aclosing(pieces_of(self._turn)) as deltas:
            async for delta, pieces in deltas:
                at = delta.choice
                self._meter.add(delta)
                builders[at].add(pieces)
                scored[at] += self._scores(delta.scored)
                if delta.finish_reason is not None:
                    reasons[at] = self._turn.readers[at].finish_reason(delta.finish_reason)
        choices = [
            Choice(index, assistant_message(builder.said()), self._logprobs(tokens), reason)
            for index, (builder, tokens, reason) in enumerate(
                zip(builders, scored, reasons, strict=True)
            )
        ]
        completion = ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model.name,
            choices=[],
            usage=self._meter.usage(),
        )
        return completion, choices

    async def chunks(self) -> AsyncGenerator[list[bytes], None]:
        """Encoded chunks, those of one step together."""
        writers = [DeltaWriter() for _ in self._turn.readers]
        async with contextlib.aclosing(self._turn.deltas) as deltas:
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
        reader = self._turn.readers[delta.choice]
        parts = [part for piece in reader.read(delta) if (part := writer.delta(piece))]
        if delta.scored and not parts:
            parts = [Delta(content="")]  # tokens whose text is still held back
        events = []
        for at, part in enumerate(parts):
            logprobs = None if at else self._logprobs(self._scores(delta.scored))
            events.append(self._chunk(ChunkChoice(delta.choice, part, logprobs)))
        if delta.finish_reason is not None:
            reason = reader.finish_reason(delta.finish_reason)
            last = ChunkChoice(delta.choice, Delta(), finish_reason=reason)
            is_told = self._meter.is_complete and not self._body.includes_usage
            usage = self._meter.usage() if is_told else UNSET
            events.append(self._chunk(last, usage=usage))
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

    def _scores(self, scored: Sequence[ScoredToken]) -> list[msgspec.Raw]:
        return [token_logprob(self._model, token) for token in scored]

    def _logprobs(self, scores: list[msgspec.Raw]) -> Logprobs | None:
        return Logprobs(scores) if self._body.logprobs else None
