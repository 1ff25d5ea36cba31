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
from localinfra.api.usage import Usage, UsageMeter
from localinfra.chat.messages import Message
from localinfra.chat.template import check_kwargs
from localinfra.engine.output import OutputDelta, ScoredToken
from localinfra.engine.request import TextRequest
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
    modalities: list[str] = msgspec.field(default_factory=list)

    def check(self) -> None:
        super().check()
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true.", "top_logprobs")
        check_kwargs(self.chat_template_kwargs)
        if any(modality != "text" for modality in self.modalities):
            raise UnsupportedParameter("Only text can be generated; leave it out.", "modalities")

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


class AssistantMessage(msgspec.Struct, frozen=True):
    content: str
    role: str = "assistant"
    refusal: None = None


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


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


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
    log_user(request, body)
    model = await runtime(request).text_model(body.model, ROUTE)
    prompt = await model.chat_prompt(body.messages, body.template_kwargs)
    deltas = model.generate(
        TextRequest(
            prompts=[prompt],
            max_tokens=body.max_tokens
            if body.max_completion_tokens is None
            else body.max_completion_tokens,
            sampling=body.sampling_params(),
            num_choices=body.n,
            stops=body.stops,
            top_logprobs=body.num_logprobs,
        )
    )
    answer = ChatAnswer(model, body, len(prompt))
    if body.stream:
        keepalive_s = runtime(request).settings.keepalive_s
        return EventStream(answer.chunks(deltas), decoded.headers, keepalive_s)
    completion = await until_disconnect(request.receive, answer.completion(deltas))
    return json_response(completion, headers=decoded.headers)


class ChatAnswer:
    """Deltas of one request → a completion or its chunks."""

    def __init__(self, model: "TextModel", body: ChatCompletionRequest, num_prompt: int):
        self._model = model
        self._body = body
        self._meter = UsageMeter(model.entry.price, [num_prompt], body.n)
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())

    async def completion(self, deltas: AsyncGenerator[list[OutputDelta], None]) -> ChatCompletion:
        texts = ["" for _ in range(self._body.n)]
        scored: list[list[ScoredToken]] = [[] for _ in texts]
        reasons = ["" for _ in texts]
        async with contextlib.aclosing(deltas):
            async for step in deltas:
                for delta in step:
                    self._meter.add(delta)
                    texts[delta.choice] += delta.text
                    scored[delta.choice] += delta.scored
                    if delta.finish_reason is not None:
                        reasons[delta.choice] = delta.finish_reason
        choices = [
            Choice(index, AssistantMessage(text), self._logprobs(tokens), reason)
            for index, (text, tokens, reason) in enumerate(zip(texts, scored, reasons, strict=True))
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
        async with contextlib.aclosing(deltas):
            yield [
                self._chunk(ChunkChoice(index, Delta(role="assistant", content="")))
                for index in range(self._body.n)
            ]
            async for step in deltas:
                if events := [event for delta in step for event in self._events(delta)]:
                    yield events
        if self._body.includes_usage:
            yield [self._chunk(usage=self._meter.usage())]

    def _events(self, delta: OutputDelta) -> list[bytes]:
        """The chunk with what was added, and the one that ends the choice."""
        self._meter.add(delta)
        events = []
        if delta.text or delta.scored:
            choice = ChunkChoice(
                delta.choice, Delta(content=delta.text), self._logprobs(delta.scored)
            )
            events.append(self._chunk(choice))
        if delta.finish_reason is not None:
            last = ChunkChoice(delta.choice, Delta(), finish_reason=delta.finish_reason)
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
