"""POST /v1/responses, /v1/responses/compact and /v1/responses/input_tokens."""

from starlette.requests import Request
from starlette.responses import Response as HttpResponse
from starlette.types import Scope

from localinfra.api.call import Call
from localinfra.api.http.late import no_events
from localinfra.api.http.sse import NamedEvent
from localinfra.api.openai.responses.answer import (
    ROUTE,
    Numbered,
    begin_answer,
    encode,
    failed,
    last_event,
    response_to,
)
from localinfra.api.openai.responses.background import answer_in_background
from localinfra.api.openai.responses.conversation import (
    ConversationRequest,
    naming_input,
    read_conversation,
)
from localinfra.api.openai.responses.request import ResponsesRequest
from localinfra.api.openai.responses.response import CompactedResponse, InputTokens, Response
from localinfra.api.pictures import with_pictures
from localinfra.errors import ApiError, UnsupportedParameter
from localinfra.kinds import TEXT
from localinfra.text.showing import links


async def create_response(request: Request) -> HttpResponse:
    """Answers a conversation in items, which the next request may go on with.

    With `background`, the answer goes on without its client: see GET /v1/responses/{id}."""
    call = await Call.begin(request, ResponsesRequest)
    asked = await read_conversation(call)
    if call.body.background:
        return await answer_in_background(call, asked)
    if not call.body.stream:
        return call.pieces([await (await begin_answer(call, asked)).json()])
    numbered = Numbered()
    if not links(asked.messages):
        return await begin_stream(call, asked, None, numbered)
    queued = response_to(asked, await call.models.name(TEXT, call.body.model, ROUTE))

    def failure(error: ApiError, scope: Scope) -> NamedEvent:
        response = failed(queued, error)
        return numbered([last_event(response, encode(response))])[0]

    return await call.begun_in_time(
        begin_stream(call, asked, queued, numbered),
        lambda: call.named_stream(no_events(), None, failure, None),
    )


async def begin_stream(
    call: Call[ResponsesRequest],
    asked: ConversationRequest,
    queued: Response | None,
    numbered: Numbered,
) -> HttpResponse:
    answer = await begin_answer(call, asked, queued, numbered)
    return call.named_stream(
        answer.events(), answer.turn.deltas, answer.failure, answer.heartbeat_event
    )


async def compact_conversation(request: Request) -> HttpResponse:
    """Summarizes a conversation.

    The users' messages and the summary are to be sent in its place.
    https://platform.openai.com/docs/api-reference/responses/compact"""
    call = await Call.begin(request, ResponsesRequest)
    for param in ("stream", "background"):
        if getattr(call.body, param):
            raise UnsupportedParameter(f"A compaction has no {param}: leave it out.", param)
    asked = await read_conversation(call, compacts=True)
    answer = await begin_answer(call, asked)
    done = await answer.response()
    assert done.usage is not None
    output = [*asked.items, *done.output]
    return call.json(CompactedResponse(done.id, done.created_at, output, done.usage))


async def count_input_tokens(request: Request) -> HttpResponse:
    """Counts a conversation's tokens, without an answer."""
    call = await Call.begin(request, ResponsesRequest)
    body, asked = call.body, await read_conversation(call)
    model = await call.models.text(body.model, ROUTE)
    with naming_input():
        tools = asked.answer.use.tools
        messages, shown = await with_pictures(call, model, asked.messages)
        prompt = await model.prompts.chat(messages, body.template_kwargs, tools, shown=shown)
    call.report_ignored([*asked.left_out, *model.prompts.unread(body.kwarg_paths)], asked.unknown)
    return call.json(InputTokens(len(prompt.ids)))
