"""POST /v1/responses, /v1/responses/compact and /v1/responses/input_tokens."""

import contextlib
import itertools
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response as HttpResponse
from starlette.types import Scope

from localinfra.api.call import Call
from localinfra.api.generation.logprobs import token_logprob
from localinfra.api.generation.params import Defaults, none_if_not_given
from localinfra.api.generation.usage import Charge, UsageMeter
from localinfra.api.http.sse import NamedEvent
from localinfra.api.openai.responses.input import (
    check_outputs,
    messages_of,
    read_input,
    without_orphans,
)
from localinfra.api.openai.responses.items import AnyItem, MessageItem, new_id
from localinfra.api.openai.responses.output import (
    CompactionWriter,
    OutputWriter,
    ResponsesEvent,
    TokenKinds,
)
from localinfra.api.openai.responses.request import CARRIED, ResponsesRequest
from localinfra.api.openai.responses.response import (
    CompactedResponse,
    Completed,
    Created,
    Incomplete,
    IncompleteDetails,
    InProgress,
    InputTokens,
    InputTokensDetails,
    OutputTokensDetails,
    Response,
    ResponseError,
    ResponseFailed,
    ResponseUsage,
)
from localinfra.api.openai.responses.store import (
    KeptResponse,
    References,
    ResponseStore,
    previous_response,
)
from localinfra.api.openai.responses.tools import Offered
from localinfra.chat.answer import Answer, ToolUse
from localinfra.chat.messages import Message
from localinfra.engine.request import FinishReason, SamplingParams
from localinfra.errors import ApiError, InvalidRequest, UnsupportedParameter
from localinfra.text.request import TextParams
from localinfra.text.turn import Turn, TurnRequest, begin_turn, pieces_of

if TYPE_CHECKING:
    from localinfra.text.model import TextModel  # brings numpy, which only a loaded model needs

ROUTE = "/v1/responses"

# Asks for a summary, after the conversation.
SUMMARIZE = (
    "Summarize this conversation. You will go on with the work from your summary alone, so keep "
    "what you need for it: what the user asked for and how they want it done; what you found and "
    "changed, with the names of files, commands and values; what failed; what is still to do. "
    "Write only the summary."
)

encode = msgspec.json.Encoder().encode


class ConversationRequest(msgspec.Struct, frozen=True):
    """A request, with the conversation that it continues."""

    body: ResponsesRequest
    compacts: bool  # the answer is a summary
    items: list[AnyItem]  # what a next response continues, before this one's output
    num_bytes: int  # of the items as JSON; 0 if they are not stored
    messages: list[Message]
    sampling: SamplingParams
    answer: Answer
    offered: Offered
    tools: msgspec.Raw  # for the response
    left_out: list[str]  # paths of ignored parts
    unknown: list[str]  # paths of unknown names

    def turn(self) -> TurnRequest:
        body = self.body
        return TurnRequest(
            messages=self.messages,
            answer=self.answer,
            template_kwargs=body.template_kwargs,
            params=TextParams(
                sampling=self.sampling,
                top_logprobs=body.num_logprobs,
                max_tokens=none_if_not_given(body.max_output_tokens),
                stops=body.stops,
            ),
        )


async def create_response(request: Request) -> HttpResponse:
    """Answers a conversation in items, which the next request may go on with."""
    call = await Call.begin(request, ResponsesRequest)
    answer = await begin_answer(call, await read_conversation(call))
    if call.body.stream:
        return call.named_stream(
            answer.events(), answer.turn.deltas, answer.failure, answer.heartbeat_event
        )
    return call.json(await answer.json())


async def compact_conversation(request: Request) -> HttpResponse:
    """Summarizes a conversation.

    The users' messages and the summary are to be sent in its place.
    https://platform.openai.com/docs/api-reference/responses/compact"""
    call = await Call.begin(request, ResponsesRequest)
    if call.body.stream:
        raise UnsupportedParameter("A compaction is not streamed: leave stream out.", "stream")
    asked = await read_conversation(call, compacts=True)
    answer = await begin_answer(call, asked)
    done = await answer.response()
    assert done.usage is not None
    output = [*asked.items, *done.output]
    return call.json(CompactedResponse(done.id, done.created_at, output, done.usage))


async def begin_answer(
    call: Call[ResponsesRequest], asked: ConversationRequest
) -> "ResponseAnswer":
    body = call.body
    call.log_user(body.user)
    model = await call.models.text(body.model, ROUTE)
    charge = call.charge(model)
    with naming_input():
        turn = await begin_turn(model, asked.turn(), call.caller)
    left_out = [*asked.left_out, *model.prompts.unread(body.kwarg_paths), *turn.left_out]
    call.report_ignored(left_out, asked.unknown)
    return ResponseAnswer(call, asked, model, turn, charge)


async def count_input_tokens(request: Request) -> HttpResponse:
    """Counts a conversation's tokens, without an answer."""
    call = await Call.begin(request, ResponsesRequest)
    body, asked = call.body, await read_conversation(call)
    model = await call.models.text(body.model, ROUTE)
    with naming_input():
        tools = asked.answer.use.tools
        prompt = await model.prompts.chat(asked.messages, body.template_kwargs, tools)
    call.report_ignored([*asked.left_out, *model.prompts.unread(body.kwarg_paths)], asked.unknown)
    return call.json(InputTokens(len(prompt.ids)))


async def read_conversation(
    call: Call[ResponsesRequest], *, compacts: bool = False
) -> ConversationRequest:
    """Raises InvalidRequest, UnsupportedParameter, NotFound, BodyTooLarge or QueueFull."""
    request, body, defaults = call.request, call.body, call.defaults(call.body.model)
    previous = previous_response(request, body.previous_response_id)
    more_bytes = previous.conversation_bytes if previous else 0
    return await call.convert(
        lambda: conversation_request(request, body, previous, defaults, compacts), more_bytes
    )


def conversation_request(
    request: Request,
    body: ResponsesRequest,
    previous: KeptResponse | None,
    defaults: Defaults,
    compacts: bool = False,
) -> ConversationRequest:
    body.check()
    earlier = previous.conversation if previous else []
    references = References(request)
    is_probe = not (body.input or earlier or body.instructions)
    given = "" if is_probe else body.input  # some clients probe a server without any input
    sent = without_orphans(earlier, read_input(given, references.find))
    check_outputs(earlier, sent.items, sent.paths)
    instructions = body.instructions
    messages = [Message(role="system", content=instructions)] if instructions else []
    messages += messages_of([*earlier, *sent.items])
    if not messages:
        raise InvalidRequest("input has no text: send text, or an item that has some.", "input")
    offered = body.offered
    left_out = [*body.left_out, *offered.left_out, *sent.left_out]
    num_bytes = 0
    if body.store:
        placed = zip(sent.items, sent.paths, strict=True)
        own = [item for item, path in placed if path not in references.paths]
        num_bytes = len(encode(own)) + references.num_bytes
        num_bytes += previous.conversation_bytes if previous else 0
    items, answer = [*earlier, *sent.items], body.answer()
    if compacts := compacts or bool(sent.triggers):
        messages.append(Message(role="user", content=SUMMARIZE))
        items = [item for item in items if isinstance(item, MessageItem) and item.role == "user"]
        answer = without_calls(answer)
    return ConversationRequest(
        body=body,
        compacts=compacts,
        items=items,
        num_bytes=num_bytes,
        messages=messages,
        sampling=body.sampling_params(defaults),
        answer=answer,
        offered=offered,
        tools=msgspec.Raw(encode(offered.shown)),
        left_out=left_out,
        unknown=[*offered.unknown, *sent.unknown],
    )


def without_calls(answer: Answer) -> Answer:
    """Any text. The tools stay in the prompt: the conversation's prefix was cached with them."""
    return Answer(use=ToolUse(answer.use.tools, allowed=frozenset()))


@contextlib.contextmanager
def naming_input() -> Iterator[None]:
    """Renames the param of errors about messages to `input`."""
    try:
        yield
    except InvalidRequest as error:
        if error.param == "messages":
            error.param = "input"
        raise


def response_to(asked: ConversationRequest, model_name: str) -> Response:
    """A response in progress, with the fields repeated from the request."""
    body = asked.body
    return Response(
        id=new_id("resp"),
        created_at=int(time.time()),
        model=model_name,
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
        text=body.text,
        tool_choice=body.tool_choice,
        tools=asked.tools,
        top_logprobs=body.top_logprobs or 0,
        top_p=asked.sampling.top_p,
        user=body.user,
    )


class ResponseAnswer:
    """A request's deltas → a response, or the events that build it."""

    def __init__(
        self,
        call: Call[ResponsesRequest],
        asked: ConversationRequest,
        model: "TextModel",
        turn: Turn,
        charge: Charge,
    ):
        self._call = call
        self._asked = asked
        self._model = model
        self.turn = turn
        self._response = response_to(asked, model.name)
        # Encoded once: it repeats fields of the request, which may be megabytes.
        self._json = msgspec.Raw(encode(self._response))
        self._meter = UsageMeter(charge, [turn.num_prompt], 1)
        names, carries = asked.offered.names, CARRIED in asked.body.include
        self._writer = (
            CompactionWriter() if asked.compacts else OutputWriter(names, carries=carries)
        )
        self._kinds = TokenKinds()
        self._numbers = itertools.count()

    async def response(self) -> Response:
        async with contextlib.aclosing(self._output()) as output:
            async for _ in output:
                pass
        return self._response

    async def json(self) -> msgspec.Raw:
        """The whole response."""
        await self.response()
        return self._json

    async def events(self) -> AsyncGenerator[list[NamedEvent], None]:
        """Yields the events of one step together."""
        async with contextlib.aclosing(self._output()) as output:
            start = [Created(response=self._json), InProgress(response=self._json)]
            yield self._numbered(start)
            async for events in output:
                if events:
                    yield self._numbered(events)
        last = Completed if self._response.status == "completed" else Incomplete
        yield self._numbered([last(response=self._json)])

    def heartbeat_event(self) -> NamedEvent:
        """A heartbeat, sent during a long prefill. An event, as some clients do not count comments
        (Codex gives up after 300 s)."""
        return self._numbered([InProgress(response=self._json)])[0]

    def failure(self, error: ApiError, scope: Scope) -> NamedEvent:
        """The last event if the response fails."""
        code = "server_error" if error.status >= 500 else "invalid_prompt"
        failed = msgspec.structs.replace(
            self._response,
            status="failed",
            error=ResponseError(code, error.message),
            output=tuple(self._writer.items),
        )
        return self._numbered([ResponseFailed(response=msgspec.Raw(encode(failed)))])[0]

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
                    self._json = msgspec.Raw(encode(self._response))
                yield events
        if self._asked.body.store:
            self._keep()

    def _keep(self) -> None:
        asked, caller, response = self._asked, self._call.caller, self._response
        self._call.store(ResponseStore).put(
            response.id, caller, bytes(self._json), asked.items, response.output, asked.num_bytes
        )

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

    def _numbered(self, events: Sequence[ResponsesEvent]) -> list[NamedEvent]:
        numbered = [
            msgspec.structs.replace(event, sequence_number=next(self._numbers)) for event in events
        ]
        return [(event.kind, encode(event)) for event in numbered]
