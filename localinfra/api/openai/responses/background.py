"""Responses with `background: true`: answered without their client."""

import contextlib
from collections.abc import AsyncGenerator

import msgspec
from starlette.responses import Response as HttpResponse
from starlette.types import Scope

from localinfra.api.call import Call
from localinfra.api.http.background import follow
from localinfra.api.http.sse import NamedEvent, NamedEventStream
from localinfra.api.openai.responses.answer import (
    ROUTE,
    Numbered,
    ResponseAnswer,
    begin_answer,
    failed,
    keep,
    last_event,
    response_json,
    response_to,
)
from localinfra.api.openai.responses.conversation import ConversationRequest
from localinfra.api.openai.responses.request import ResponsesRequest
from localinfra.api.openai.responses.response import Created, Queued, Response
from localinfra.errors import ApiError
from localinfra.kinds import TEXT

encode = msgspec.json.Encoder().encode


async def answer_in_background(
    call: Call[ResponsesRequest], asked: ConversationRequest
) -> HttpResponse:
    """The response as it is queued, or the stream of its events."""
    name = await call.models.name(TEXT, call.body.model, ROUTE)
    call.report_ignored(asked.left_out, asked.unknown)
    queued = response_to(asked, name)
    json = await response_json(queued)

    async def answer(own: Call[ResponsesRequest]) -> HttpResponse:
        waiting = QueuedAnswer(own, asked, queued, json)
        return NamedEventStream(waiting.events(), waiting.failure)

    background = await call.in_background(queued.id, answer)
    return follow(call.request, background) if call.body.stream else call.pieces([json])


class QueuedAnswer:
    """A response from its creation on, before its model is loaded."""

    def __init__(
        self,
        call: Call[ResponsesRequest],
        asked: ConversationRequest,
        queued: Response,
        json: bytes,
    ):
        self._call = call
        self._asked = asked
        self._queued = queued
        self._json = json  # the same
        self._numbered = Numbered()
        self._answer: ResponseAnswer | None = None  # once it is in progress
        keep(call, asked, queued, json)

    async def events(self) -> AsyncGenerator[list[NamedEvent], None]:
        json = msgspec.Raw(self._json)
        yield self._numbered([Created(response=json), Queued(response=json)])
        answer = await begin_answer(self._call, self._asked, self._queued, self._numbered)
        async with (
            contextlib.aclosing(answer.turn.deltas),
            contextlib.aclosing(answer.events()) as events,
        ):
            self._answer = answer
            async for ready in events:
                yield ready

    def failure(self, error: ApiError, scope: Scope) -> NamedEvent:
        """The last event if the response fails, or is cancelled."""
        if self._answer is not None:
            return self._answer.failure(error, scope)
        response = failed(self._queued, error)
        json = encode(response)
        keep(self._call, self._asked, response, json)
        return self._numbered([last_event(response, json)])[0]
