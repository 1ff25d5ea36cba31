"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API, over the same turns as chat."""

import contextlib
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from localinfra.api.anthropic.input import PromptFields, last_of_user
from localinfra.api.anthropic.output import (
    BlockWriter,
    ContentBlock,
    MessageDelta,
    MessagesAnswer,
    MessageStart,
    MessageStop,
    MessagesUsage,
    Ping,
    Stop,
    content_blocks,
)
from localinfra.api.anthropic.pictures import block_links, with_marks, without_breaks
from localinfra.api.call import Call
from localinfra.api.generation.params import (
    MAX_STOPS,
    NOT_GIVEN,
    Defaults,
    MaxTokens,
    Seed,
    StopString,
    TopK,
    none_if_not_given,
)
from localinfra.api.generation.usage import Charge, UsageMeter
from localinfra.api.http.errors import error_body
from localinfra.api.http.late import no_events
from localinfra.api.http.sse import NamedEvent
from localinfra.api.pictures import see
from localinfra.chance import random_hex
from localinfra.chat.formats.pieces import Piece
from localinfra.engine.output import OutputDelta
from localinfra.engine.request import FinishReason
from localinfra.errors import ApiError
from localinfra.models.sampling import SamplingSettings, TopP
from localinfra.text.request import TextParams
from localinfra.text.showing import NOTHING_SHOWN, ShownPictures
from localinfra.text.turn import Turn, TurnRequest, begin_turn, pieces_of

if TYPE_CHECKING:
    from localinfra.text.model import TextModel  # brings numpy, which only a loaded model needs

Prompted = TypeVar("Prompted", bound=PromptFields)

ROUTE = "/v1/messages"
COUNT_ROUTE = "/v1/messages/count_tokens"


class Metadata(msgspec.Struct, frozen=True):
    user_id: str | None = None  # only logged


class MessageRequest(PromptFields, frozen=True, kw_only=True):
    max_tokens: MaxTokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    stop_sequences: Annotated[list[StopString], Meta(max_length=MAX_STOPS)] = msgspec.field(
        default_factory=list
    )
    stream: bool = False
    metadata: Metadata = Metadata()
    service_tier: str = "auto"  # no effect: there is only one
    seed: Seed | None = None  # our extension: makes the text reproducible

    def turn(self, defaults: Defaults) -> TurnRequest:
        """Raises InvalidRequest or UnsupportedParameter."""
        given = SamplingSettings(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=0 if self.top_k == NOT_GIVEN else self.top_k,
        )
        return TurnRequest(
            messages=self.conversation(),
            answer=self.answer(),
            template_kwargs=self.template_kwargs,
            params=TextParams(
                sampling=defaults.sampling_params(given.given, self.seed),
                max_tokens=none_if_not_given(self.max_tokens),
                stops=self.stop_sequences,
            ),
        )

    @property
    def hides_thinking(self) -> bool:
        return self.thinking is not None and self.thinking.display == "omitted"


class TokenCount(msgspec.Struct, frozen=True):
    input_tokens: int


async def create_message(request: Request) -> Response:
    """Answers a conversation, in the form of Anthropic's clients."""
    call = await Call.begin(request, MessageRequest)
    if call.body.stream and block_links(call.body.messages):
        return await call.begun_in_time(
            begin_message(call),
            lambda: call.named_stream(no_events(), None, error_event, Ping().named),
        )
    return await begin_message(call)


async def begin_message(call: Call[MessageRequest]) -> Response:
    defaults = call.defaults(call.body.model)
    body, shown = await with_marked_images(call, call.body, ROUTE)
    wanted, left_out = await call.convert(lambda: (body.turn(defaults), body.left_out))
    if shown.word:
        messages = without_breaks(wanted.messages, shown.word)
        wanted = msgspec.structs.replace(wanted, messages=messages, shown=shown)
    call.log_user(body.metadata.user_id)
    model = await call.models.text(body.model, ROUTE)
    charge = call.charge(model)
    turn = await begin_turn(model, wanted, call.caller)
    call.report_ignored([*left_out, *model.prompts.unread(body.kwarg_paths), *turn.left_out])
    answer = MessageAnswer(model, turn, charge, body.hides_thinking)
    if body.stream:
        return call.named_stream(answer.events(), turn.deltas, error_event, Ping().named)
    return call.json(await answer.message())


async def count_message_tokens(request: Request) -> Response:
    """Counts a conversation's tokens, without an answer.

    Cached or not, as the usage of an answer would report them."""
    call = await Call.begin(request, PromptFields)
    body, shown = await with_marked_images(call, call.body, COUNT_ROUTE)
    messages, left_out = await call.convert(lambda: (body.conversation(), body.left_out))
    use = (await call.convert(body.answer)).use
    model = await call.models.text(body.model, COUNT_ROUTE)
    call.report_ignored([*left_out, *model.prompts.unread(body.kwarg_paths)])
    messages = without_breaks(messages, shown.word) if shown.word else messages
    prompt = await model.prompts.chat(messages, body.template_kwargs, use.tools, shown=shown)
    return call.json(TokenCount(len(prompt.ids)))


async def with_marked_images(
    call: Call[Any], body: Prompted, route: str
) -> tuple[Prompted, ShownPictures]:
    """The body with marks in the place of images, where the model sees them."""
    found = block_links(body.messages)
    if not found:
        return body, NOTHING_SHOWN
    model = await call.models.text(body.model, route)
    shown = await see(call, model, found, last_of_user(body.messages))
    if not shown.word:
        return body, shown
    return msgspec.structs.replace(body, messages=with_marks(body.messages, shown.word)), shown


def error_event(error: ApiError, scope: Scope) -> NamedEvent:
    return "error", error_body(error, scope)


class MessageAnswer:
    """One request's turn → a message or its events."""

    def __init__(self, model: "TextModel", turn: Turn, charge: Charge, hides_thinking: bool):
        self._model = model
        self._turn = turn
        self._meter = UsageMeter(charge, turn.deltas, [turn.num_prompt], 1, turn.num_image_tokens)
        self._hides_thinking = hides_thinking
        self._id = f"msg_{random_hex(24)}"

    async def message(self) -> MessagesAnswer:
        said: list[Piece] = []
        stop = Stop(None)
        async with contextlib.aclosing(pieces_of(self._turn)) as deltas:
            async for delta, pieces in deltas:
                self._meter.add(delta)
                said += pieces
                if delta.finish_reason is not None:
                    stop = self._stop(delta, delta.finish_reason)
        return self._message(content_blocks(said, self._hides_thinking), stop)

    async def events(self) -> AsyncGenerator[list[NamedEvent], None]:
        """Yields the events of one step together."""
        writer = BlockWriter(self._hides_thinking)
        async with contextlib.aclosing(pieces_of(self._turn)) as deltas:
            yield [MessageStart(self._message([], Stop(None))).named()]
            async for delta, pieces in deltas:
                self._meter.add(delta)
                events = [event for piece in pieces for event in writer.events(piece)]
                if delta.finish_reason is not None:
                    stop = self._stop(delta, delta.finish_reason)
                    events += [*writer.close(), MessageDelta(stop, self._usage()), MessageStop()]
                if events:
                    yield [event.named() for event in events]

    def _message(self, content: list[ContentBlock], stop: Stop) -> MessagesAnswer:
        return MessagesAnswer(
            id=self._id,
            model=self._model.name,
            content=content,
            stop_reason=stop.stop_reason,
            stop_sequence=stop.stop_sequence,
            usage=self._usage(),
        )

    def _stop(self, last: OutputDelta, reason: FinishReason) -> Stop:
        if self._turn.readers[0].has_called(reason):
            return Stop("tool_use")
        if last.stop is not None:
            return Stop("stop_sequence", last.stop)
        if reason is FinishReason.STOP:
            return Stop("end_turn")
        if self._turn.num_prompt + last.num_generated >= self._model.context_length:
            return Stop("model_context_window_exceeded")
        return Stop("max_tokens")

    def _usage(self) -> MessagesUsage:
        """The usage so far. Cached tokens are known from the first token on."""
        used = self._meter.usage()
        cached = used.prompt_tokens_details.cached_tokens
        return MessagesUsage(
            input_tokens=used.prompt_tokens - cached,
            cache_creation_input_tokens=0,  # caching costs nothing extra here
            cache_read_input_tokens=cached,
            output_tokens=used.completion_tokens,
            estimated_cost=used.estimated_cost,
        )
