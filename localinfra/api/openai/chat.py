"""POST /v1/chat/completions, and /v1/engines/{id}/chat/completions."""

import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.call import Call
from localinfra.api.generation.logprobs import TokenLogprobEntry, token_logprob
from localinfra.api.generation.params import (
    Defaults,
    GenerationFields,
    MaxTokens,
    ShortName,
    TemplateKwargs,
    TopLogprobs,
    kwarg_paths,
    none_if_not_given,
)
from localinfra.api.generation.thinking import Thinking, as_thinking, thinking_kwargs
from localinfra.api.generation.tools import (
    SentTools,
    ToolChoice,
    Tools,
    answer_of,
    call_id,
    read_tools,
    tool_use,
)
from localinfra.api.generation.usage import Charge, UsageMeter
from localinfra.api.http.background import follow
from localinfra.api.http.held import holding
from localinfra.api.openai.completion_writer import CompletionObject, CompletionWriter
from localinfra.api.pictures import has_media, with_pictures
from localinfra.chat.answer import Answer, ToolUse
from localinfra.chat.formats.pieces import CallArguments, CallStart, Content, Piece, Thought
from localinfra.chat.messages import MAX_MESSAGES, Message, left_out
from localinfra.chat.template import check_kwargs
from localinfra.engine.output import OutputDelta, ScoredToken
from localinfra.errors import InvalidRequest, UnsupportedParameter
from localinfra.text.request import TextParams
from localinfra.text.turn import Turn, TurnRequest, begin_turn, pieces_in

if TYPE_CHECKING:
    from localinfra.text.model import TextModel  # brings numpy, which only a loaded model needs

ROUTE = "/v1/chat/completions"


class ChatCompletionRequest(GenerationFields, frozen=True, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: MaxTokens | None = None  # the newer name of max_tokens
    logprobs: bool = False  # send the log probability of each token
    top_logprobs: TopLogprobs | None = None  # and of this many of the likeliest in its place
    reasoning_effort: ShortName | None = None  # for the model's template, if it reads it
    # switches as services for models such as Qwen and DeepSeek have them, and so applications send
    enable_thinking: bool | None = None
    thinking: Thinking | bool | None = None
    # variables for the model's template, such as enable_thinking
    chat_template_kwargs: TemplateKwargs = msgspec.field(default_factory=dict)
    tools: SentTools = msgspec.field(default_factory=list)
    # none, auto, required, or a function: calls that are required are guaranteed
    tool_choice: ShortName | ToolChoice | None = None
    parallel_tool_calls: bool = True  # allow several calls in one answer
    # with stream: go on without the client, who may come back for the events, by x-request-id
    background: bool = False
    # text only
    modalities: Annotated[list[ShortName], Meta(max_length=16)] = msgspec.field(
        default_factory=list
    )

    def check(self) -> None:
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs: set it to true.", "top_logprobs")
        check_kwargs(self.chat_template_kwargs)
        if self.background and not self.stream:
            raise InvalidRequest("background needs stream: set it to true.", "background")
        if any(modality != "text" for modality in self.modalities):
            raise UnsupportedParameter(
                "Chat models generate text only: leave modalities out.", "modalities"
            )

    @property
    def offered(self) -> Tools:
        """The tools offered to the model. Raises InvalidRequest."""
        return read_tools(self.tools)

    def answer(self, tools: Tools | None = None) -> Answer:
        """The form required of the answer; `tools`: `offered`, if already read. Raises
        InvalidRequest or UnsupportedParameter."""
        tools = tools or self.offered
        use = tool_use(tools, self.tool_choice or None, self.parallel_tool_calls)
        return answer_of(self.answer_format, use, "response_format")

    def turn(self, tools: Tools, defaults: Defaults) -> TurnRequest:
        """Raises the same errors as `answer`."""
        return TurnRequest(
            messages=self.messages,
            answer=self.answer(tools),
            template_kwargs=self.template_kwargs,
            params=TextParams(
                sampling=self.sampling_params(defaults),
                num_choices=self.n,
                top_logprobs=self.num_logprobs,
                max_tokens=none_if_not_given(getattr(self, self.limit_param)),
                max_tokens_param=self.limit_param,
                stops=self.stops,
            ),
        )

    def asked(self, defaults: Defaults) -> tuple[Tools, TurnRequest]:
        """The tools and the turn. Raises the same errors as `answer`."""
        tools = self.offered
        return tools, self.turn(tools, defaults)

    @property
    def limit_param(self) -> str:
        newer = none_if_not_given(self.max_completion_tokens)
        return "max_tokens" if newer is None else "max_completion_tokens"

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def template_kwargs(self) -> dict[str, object]:
        effort = {"reasoning_effort": self.reasoning_effort} if self.reasoning_effort else {}
        asked = as_thinking(self.thinking)
        thinking = asked.template_kwargs if asked else {}
        switch = {} if self.enable_thinking is None else thinking_kwargs(self.enable_thinking)
        return {**effort, **thinking, **switch, **self.chat_template_kwargs}

    @property
    def kwarg_paths(self) -> dict[str, str]:
        effort = {"reasoning_effort": "reasoning_effort"} if self.reasoning_effort else {}
        asked = as_thinking(self.thinking)
        thinking = asked.kwarg_paths if asked else {}
        switch = thinking_kwargs(True) if self.enable_thinking else {}
        return {
            **effort,
            **thinking,
            **dict.fromkeys(switch, "enable_thinking"),
            **kwarg_paths(self.chat_template_kwargs),
        }


class Logprobs(msgspec.Struct, frozen=True):
    content: list[Annotated[msgspec.Raw, holding(TokenLogprobEntry)]]
    refusal: None = None


class ChatFunctionCall(msgspec.Struct, frozen=True):
    name: str
    arguments: str


class ChatToolCall(msgspec.Struct, frozen=True):
    id: str
    function: ChatFunctionCall
    type: str = "function"


class AssistantMessage(msgspec.Struct, frozen=True):
    content: str | None
    role: str = "assistant"
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ChatToolCall] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    index: int
    message: AssistantMessage
    logprobs: Logprobs | None
    finish_reason: str  # stop, length (max_tokens or the context is full) or tool_calls


class ChatCompletion(CompletionObject, frozen=True, kw_only=True):
    """An answer, or several with `n`."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: Sequence[ChatChoice] = ()


class FunctionDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class ToolCallDelta(msgspec.Struct, frozen=True):
    index: int
    function: FunctionDelta
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET


class ChatDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChatChunkChoice(msgspec.Struct, frozen=True):
    index: int
    delta: ChatDelta
    logprobs: Logprobs | None = None
    finish_reason: str | None = None  # in the last chunk of the choice


class ChatCompletionChunk(CompletionObject, frozen=True, kw_only=True):
    """A piece of a streamed answer."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: Sequence[ChatChunkChoice] = ()


async def create_chat_completion(request: Request) -> Response:
    """Answers a conversation.

    Reasoning comes in `reasoning_content`, calls of tools in `tool_calls`."""
    call = await Call.begin(request, ChatCompletionRequest)
    return await answer_chat(call, call.body.model)


class EngineChatCompletionRequest(ChatCompletionRequest, frozen=True, kw_only=True):
    model: str = ""  # it is in the path


async def create_engine_chat_completion(request: Request) -> Response:
    """Answers a conversation; the model is in the path."""
    call = await Call.begin(request, EngineChatCompletionRequest)
    return await answer_chat(call, request.path_params["id"])


async def answer_chat(call: Call[ChatCompletionRequest], name: str) -> Response:
    (body := call.body).check()
    if body.background:
        background = await call.in_background(call.id, lambda own: begin_chat(own, name))
        return follow(call.request, background)
    if body.stream and has_media(body.messages):
        return await call.begun_in_time(begin_chat(call, name))
    return await begin_chat(call, name)


async def begin_chat(call: Call[ChatCompletionRequest], name: str) -> Response:
    body = call.body
    defaults = call.defaults(name)
    tools, wanted = await call.convert(lambda: body.asked(defaults))
    call.log_user(body.user)
    model = await call.models.text(name, ROUTE)
    charge = call.charge(model)
    messages, shown = await with_pictures(call, model, wanted.messages)
    wanted = msgspec.structs.replace(wanted, messages=messages, shown=shown)
    turn = await begin_turn(model, wanted, call.caller)
    call.report_ignored([*tools.left_out, *left_out(messages)], tools.unknown)
    call.report_ignored([*model.prompts.unread(body.kwarg_paths), *turn.left_out])
    answer = ChatAnswer(model, body, wanted.answer.use, turn, charge)
    if body.stream:
        return call.stream(answer.chunks(), turn.deltas)
    return call.pieces(await answer.whole())


class MessageBuilder:
    """A message's pieces → the message."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._thought: list[str] = []
        self._calls: list[tuple[CallStart, list[str]]] = []  # with the pieces of their arguments

    def add(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if isinstance(piece, Content):
                self._content.append(piece.text)
            elif isinstance(piece, Thought):
                self._thought.append(piece.text)
            elif isinstance(piece, CallStart):
                self._calls.append((piece, []))
            elif isinstance(piece, CallArguments):
                self._calls[-1][1].append(piece.text)

    def message(self) -> AssistantMessage:
        """The message; max_tokens may have cut off its last call."""
        content, thought = "".join(self._content), "".join(self._thought)
        calls = [
            ChatToolCall(call.id or call_id(), ChatFunctionCall(call.name, "".join(arguments)))
            for call, arguments in self._calls
        ]
        return AssistantMessage(
            content=None if calls and not content else content,
            reasoning_content=thought or UNSET,
            tool_calls=calls or UNSET,
        )


class DeltaWriter:
    """A message's pieces → OpenAI's deltas."""

    def __init__(self) -> None:
        self._num_calls = 0

    def delta(self, piece: Piece) -> ChatDelta | None:
        if isinstance(piece, Content):
            return ChatDelta(content=piece.text)
        if isinstance(piece, Thought):
            return ChatDelta(reasoning_content=piece.text)
        if isinstance(piece, CallStart):
            self._num_calls += 1
            function = FunctionDelta(name=piece.name, arguments="")
            id = piece.id or call_id()
            return ChatDelta(tool_calls=[self._call(function, id=id, type="function")])
        if isinstance(piece, CallArguments):
            return ChatDelta(tool_calls=[self._call(FunctionDelta(arguments=piece.text))])
        return None

    def _call(self, function: FunctionDelta, **first: str) -> ToolCallDelta:
        return ToolCallDelta(self._num_calls - 1, function, **first)


class ChatAnswer:
    """A request's deltas → a completion or its chunks."""

    def __init__(
        self,
        model: "TextModel",
        body: ChatCompletionRequest,
        use: ToolUse,
        turn: Turn,
        charge: Charge,
    ):
        self._model = model
        self._body = body
        self._use = use
        self._turn = turn
        self._meter = UsageMeter(charge, turn.deltas, [turn.num_prompt], body.n, *turn.num_media)
        kind = ChatCompletionChunk if body.stream else ChatCompletion
        self._writer = CompletionWriter(kind, "chatcmpl", model.name, body, self._meter)

    async def whole(self) -> list[bytes]:
        """The completion, in pieces."""
        messages = [MessageBuilder() for _ in self._turn.readers]
        scores: list[list[msgspec.Raw]] = [[] for _ in messages]
        reasons = ["" for _ in messages]
        async with contextlib.aclosing(self._turn.deltas) as deltas:
            async for step in deltas:
                for delta in step:
                    at = delta.choice
                    self._meter.add(delta)
                    messages[at].add(pieces_in(delta))
                    scores[at] += self._scores(delta.scored)
                    reasons[at] = self._finish_reason(delta) or ""
        choices = [
            ChatChoice(index, message.message(), self._logprobs(scores[index]), reasons[index])
            for index, message in enumerate(messages)
        ]
        return await self._writer.whole(choices)

    def chunks(self) -> AsyncGenerator[list[bytes], None]:
        writers = [DeltaWriter() for _ in self._turn.readers]

        async def choices_of(delta: OutputDelta) -> list[ChatChunkChoice]:
            return self._chunk_choices(delta, writers[delta.choice])

        start = ChatDelta(role="assistant", content="")
        opening = [ChatChunkChoice(index, start) for index in range(self._body.n)]
        return self._writer.chunks(self._turn.deltas, choices_of, opening)

    def _chunk_choices(self, delta: OutputDelta, writer: DeltaWriter) -> list[ChatChunkChoice]:
        """A delta's choices: one for each piece, one for the end of the choice."""
        parts = [part for piece in pieces_in(delta) if (part := writer.delta(piece))]
        if delta.scored and not parts:
            parts = [ChatDelta(content="")]  # logprobs of tokens whose text is held back
        choices = [
            ChatChunkChoice(
                delta.choice, part, None if at else self._logprobs(self._scores(delta.scored))
            )
            for at, part in enumerate(parts)
        ]
        if (reason := self._finish_reason(delta)) is not None:
            choices.append(ChatChunkChoice(delta.choice, ChatDelta(), finish_reason=reason))
        return choices

    def _finish_reason(self, delta: OutputDelta) -> str | None:
        """As in OpenAI's API, a call that the client named in tool_choice ends with `stop`."""
        reason = delta.finish_reason
        if reason is None or self._use.is_named:
            return reason
        return "tool_calls" if self._turn.readers[delta.choice].has_called(reason) else reason

    def _scores(self, scored: Sequence[ScoredToken]) -> list[msgspec.Raw]:
        return [token_logprob(self._model, token) for token in scored]

    def _logprobs(self, scores: list[msgspec.Raw]) -> Logprobs | None:
        return Logprobs(scores) if self._body.logprobs else None
