"""A conversation → the response, or the events that build it."""

import contextlib
import itertools
import time
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING

import msgspec
from starlette.types import Scope

from localinfra.api.call import Call
from localinfra.api.generation.logprobs import token_logprob
from localinfra.api.generation.params import none_if_not_given
from localinfra.api.generation.usage import Charge, UsageMeter
from localinfra.api.http.sse import NamedEvent
from localinfra.api.openai.responses.conversation import ConversationRequest, naming_input
from localinfra.api.openai.responses.items import new_id
from localinfra.api.openai.responses.output import (
    CompactionWriter,
    OutputWriter,
    ResponsesEvent,
    TokenKinds,
)
from localinfra.api.openai.responses.request import CARRIED, ResponsesRequest
from localinfra.api.openai.responses.response import (
    Completed,
    Created,
    Incomplete,
    IncompleteDetails,
    InProgress,
    InputTokensDetails,
    OutputTokensDetails,
    Response,
    ResponseError,
    ResponseEvent,
    ResponseFailed,
    ResponseUsage,
)
from localinfra.api.openai.responses.store import ResponseStore
from localinfra.api.pictures import with_pictures
from localinfra.chat.encoding import json_parts
from localinfra.engine.request import FinishReason
from localinfra.errors import ApiError, QueueFull, RequestCancelled
from localinfra.executor import in_turns
from localinfra.long_text import joined_bytes
from localinfra.text.turn import Turn, begin_turn, pieces_of

if TYPE_CHECKING:
    from localinfra.text.model import TextModel  # brings numpy, which only a loaded model needs

ROUTE = "/v1/responses"

encode = msgspec.json.Encoder().encode


class Numbered:
    """Events → their names and JSON, numbered from 0."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def __call__(self, events: Sequence[ResponsesEvent]) -> list[NamedEvent]:
        numbered = [
            msgspec.structs.replace(event, sequence_number=next(self._numbers)) for event in events
        ]
        return [(event.kind, encode(event)) for event in numbered]


async def begin_answer(
    call: Call[ResponsesRequest],
    asked: ConversationRequest,
    queued: Response | None = None,
    numbered: Numbered | None = None,
) -> "ResponseAnswer":
    """`queued`: the response, if it was created before, with events by `numbered`."""
    body = call.body
    call.log_user(body.user)
    model = await call.models.text(body.model, ROUTE)
    charge = call.charge(model)
    # Before the turn: nothing may be waited for between its begin and its answer, which closes it.
    response = msgspec.structs.replace(
        queued or response_to(asked, model.name), status="in_progress"
    )
    json = await response_json(response)
    with naming_input():
        messages, shown = await with_pictures(call, model, asked.messages)
        wanted = msgspec.structs.replace(asked.turn(), messages=messages, shown=shown)
        turn = await begin_turn(model, wanted, call.caller)
    left_out = [*asked.left_out, *model.prompts.unread(body.kwarg_paths), *turn.left_out]
    call.report_ignored(left_out, asked.unknown)
    return ResponseAnswer(call, asked, response, json, model, turn, charge, numbered or Numbered())


async def response_json(response: Response) -> bytes:
    """It repeats fields of the request, which may be megabytes."""
    return await in_turns(joined_bytes(await in_turns(json_parts(response))))


def response_to(asked: ConversationRequest, model_name: str) -> Response:
    """A response without an answer yet, with the fields repeated from the request."""
    body = asked.body
    return Response(
        id=new_id("resp"),
        created_at=int(time.time()),
        status="queued",
        model=model_name,
        background=body.background,
        instructions=body.instructions,
        max_output_tokens=none_if_not_given(body.max_output_tokens),
        max_tool_calls=body.max_tool_calls,
        metadata=body.metadata,
        parallel_tool_calls=body.parallel_tool_calls,
        previous_response_id=body.previous_response_id,
        prompt_cache_key=body.prompt_cache_key,
        reasoning=body.reasoning,
        safety_identifier=body.safety_identifier,
        store=body.store,
        temperature=asked.sampling.temperature,
        text=asked.text,
        tool_choice=body.tool_choice,
        tools=asked.tools,
        top_logprobs=body.top_logprobs or 0,
        top_p=asked.sampling.top_p,
        user=body.user,
    )


def keep(
    call: Call[ResponsesRequest], asked: ConversationRequest, response: Response, json: bytes
) -> None:
    """Stores a response as it is now."""
    call.store(ResponseStore).put(
        response.id,
        call.caller,
        json,
        asked.items,
        response.output,
        asked.num_bytes,
        status=response.status,
        is_background=response.background,
        headers=call.headers,
    )


def failed(response: Response, error: ApiError) -> Response:
    """A response as an error leaves it."""
    if isinstance(error, RequestCancelled) and response.background:
        return msgspec.structs.replace(response, status="cancelled")
    code = "server_error" if error.status >= 500 else "invalid_prompt"
    if isinstance(error, QueueFull):
        code = "rate_limit_exceeded"
    return msgspec.structs.replace(
        response, status="failed", error=ResponseError(code, error.message)
    )


def last_event(response: Response, json: bytes) -> ResponseEvent:
    """The last event of a response. OpenAI has none for one that was cancelled: like one that is
    incomplete, it may have a part of its output."""
    kinds = {"completed": Completed, "failed": ResponseFailed}
    return kinds.get(response.status, Incomplete)(response=msgspec.Raw(json))


class ResponseAnswer:
    """A request's deltas → a response, or the events that build it."""

    def __init__(
        self,
        call: Call[ResponsesRequest],
        asked: ConversationRequest,
        response: Response,
        json: bytes,
        model: "TextModel",
        turn: Turn,
        charge: Charge,
        numbered: Numbered,
    ):
        self._call = call
        self._asked = asked
        self._model = model
        self.turn = turn
        self._response = response
        self._json = json  # the same
        self._meter = UsageMeter(charge, turn.deltas, [turn.num_prompt], 1, turn.num_image_tokens)
        names, carries = asked.offered.names, CARRIED in asked.body.include
        self._writer = (
            CompactionWriter() if asked.compacts else OutputWriter(names, carries=carries)
        )
        self._kinds = TokenKinds()
        self._numbered = numbered

    async def response(self) -> Response:
        async with contextlib.aclosing(self._output()) as output:
            async for _ in output:
                pass
        return self._response

    async def json(self) -> bytes:
        """The whole response."""
        await self.response()
        return self._json

    async def events(self) -> AsyncGenerator[list[NamedEvent], None]:
        """Yields the events of one step together."""
        start: list[ResponsesEvent] = [InProgress(response=msgspec.Raw(self._json))]
        if self._response.background:  # it was created before
            keep(self._call, self._asked, self._response, self._json)
        else:
            start.insert(0, Created(response=msgspec.Raw(self._json)))
        async with contextlib.aclosing(self._output()) as output:
            yield self._numbered(start)
            async for events in output:
                if events:
                    yield self._numbered(events)
        yield self._numbered([last_event(self._response, self._json)])

    def heartbeat_event(self) -> NamedEvent:
        """A heartbeat, sent during a long prefill. An event, as some clients do not count comments
        (Codex gives up after 300 s)."""
        return self._numbered([InProgress(response=msgspec.Raw(self._json))])[0]

    def failure(self, error: ApiError, scope: Scope) -> NamedEvent:
        """The last event if the response fails."""
        response, usage = failed(self._response, error), None
        if response.status == "cancelled" and not self._asked.compacts:
            self._writer.finish(is_cut=True)  # what there is of its last item counts as output
            usage = self._usage() if self._writer.items else None
        output = tuple(self._writer.items)
        response = msgspec.structs.replace(response, output=output, usage=usage)
        json = encode(response)
        if response.background:
            keep(self._call, self._asked, response, json)
        return self._numbered([last_event(response, json)])[0]

    async def _output(self) -> AsyncGenerator[list[ResponsesEvent], None]:
        """The events of the output's items. Once exhausted, the response is complete and stored."""
        compacts = self._asked.compacts
        async with contextlib.aclosing(pieces_of(self.turn)) as deltas:
            async for delta, pieces in deltas:
                self._meter.add(delta)
                scored = self._kinds.content_of(delta, pieces)
                logprobs = [token_logprob(self._model, token) for token in scored]
                events = self._writer.write(pieces, logprobs)
                if delta.finish_reason is not None:
                    is_cut = delta.finish_reason is FinishReason.LENGTH and not compacts
                    events += self._writer.finish(is_cut=is_cut)
                    self._response = self._finished(is_cut)
                    self._json = await response_json(self._response)
                yield events
        if self._asked.body.store:
            keep(self._call, self._asked, self._response, self._json)

    def _finished(self, is_cut: bool) -> Response:
        return msgspec.structs.replace(
            self._response,
            status="incomplete" if is_cut else "completed",
            completed_at=None if is_cut else int(time.time()),
            incomplete_details=IncompleteDetails("max_output_tokens") if is_cut else None,
            output=tuple(self._writer.items),
            usage=self._usage(),
        )

    def _usage(self) -> ResponseUsage:
        usage = self._meter.usage()
        return ResponseUsage(
            input_tokens=usage.prompt_tokens,
            input_tokens_details=InputTokensDetails(usage.prompt_tokens_details.cached_tokens),
            output_tokens=usage.completion_tokens,
            output_tokens_details=OutputTokensDetails(self._kinds.num_reasoning),
            total_tokens=usage.total_tokens,
            estimated_cost=usage.estimated_cost,
        )
