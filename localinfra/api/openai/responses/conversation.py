"""A Responses request and the conversation that it continues → what the model is asked."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from starlette.requests import Request

from localinfra.api.call import Call
from localinfra.api.generation.params import Defaults, none_if_not_given
from localinfra.api.openai.responses.input import (
    check_outputs,
    messages_of,
    read_input,
    without_orphans,
)
from localinfra.api.openai.responses.items import AnyItem, MessageItem
from localinfra.api.openai.responses.request import ResponsesRequest
from localinfra.api.openai.responses.store import KeptResponse, References, previous_response
from localinfra.api.openai.responses.tools import Offered
from localinfra.api.pictures import TEXT_ONLY, Reads, read_by
from localinfra.chat.answer import Answer, ToolUse
from localinfra.chat.encoding import all_parts
from localinfra.chat.messages import Message
from localinfra.engine.request import SamplingParams
from localinfra.errors import InvalidRequest
from localinfra.long_text import join_bytes
from localinfra.text.request import TextParams
from localinfra.text.turn import TurnRequest

# Asks for a summary, after the conversation.
SUMMARIZE = (
    "Summarize this conversation. You will go on with the work from your summary alone, so keep "
    "what you need for it: what the user asked for and how they want it done; what you found and "
    "changed, with the names of files, commands and values; what failed; what is still to do. "
    "Write only the summary."
)

NAMES_OF_MEDIA = {"input_image", "image_url", "input_audio"}
MAX_NAME_CHARS = 20  # of them: long strings are not hashed
MAX_SEARCHED = 5000  # values of an input, which take 1 ms

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
    text: msgspec.Raw  # the options, for the response
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
                max_tokens_param="max_output_tokens",
                stops=body.stops,
            ),
        )


async def read_conversation(
    call: Call[ResponsesRequest], *, compacts: bool = False
) -> ConversationRequest:
    """Raises InvalidRequest, UnsupportedParameter, NotFound, BodyTooLarge or QueueFull."""
    request, body, defaults = call.request, call.body, call.defaults(call.body.model)
    previous = previous_response(request, body.previous_response_id)
    reads = TEXT_ONLY
    if has_media(body.input):
        reads = await call.threads.files.run(read_by, call.models.catalog, body.model)
    more_bytes = previous.conversation_bytes if previous else 0
    return await call.convert(
        lambda: conversation_request(request, body, previous, defaults, compacts, reads),
        more_bytes,
    )


def has_media(given: str | Sequence[Any]) -> bool:
    """Whether there may be images or sounds in it."""
    left: list[Any] = [] if isinstance(given, str) else [given]
    num_seen = 0
    while left:
        node = left.pop()
        inner = node.values() if isinstance(node, dict) else node
        num_seen += len(node)
        if num_seen > MAX_SEARCHED:
            return True
        if isinstance(node, dict) and not NAMES_OF_MEDIA.isdisjoint(node):
            return True
        texts = (one for one in inner if isinstance(one, str) and len(one) < MAX_NAME_CHARS)
        if not NAMES_OF_MEDIA.isdisjoint(texts):
            return True
        left.extend(one for one in inner if isinstance(one, (list, dict)))
    return False


def conversation_request(
    request: Request,
    body: ResponsesRequest,
    previous: KeptResponse | None,
    defaults: Defaults,
    compacts: bool = False,
    reads: Reads = TEXT_ONLY,
) -> ConversationRequest:
    body.check()
    earlier = previous.conversation if previous else []
    references = References(request)
    is_probe = not (body.input or earlier or body.instructions)
    given = "" if is_probe else body.input  # some clients probe a server without any input
    found = read_input(given, references.find, sees=reads.media, others=reads.others)
    sent = without_orphans(earlier, found)
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
        num_bytes = sum(map(len, all_parts(own))) + references.num_bytes
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
        tools=msgspec.Raw(join_bytes(all_parts(offered.shown))),
        text=msgspec.Raw(join_bytes(all_parts(body.text))),
        left_out=left_out,
        unknown=[*offered.unknown, *sent.unknown],
    )


def without_calls(answer: Answer) -> Answer:
    """Any text. The tools stay in the prompt: the conversation's prefix was cached with them."""
    return Answer(use=ToolUse(answer.use.tools, allowed=frozenset()))


@contextlib.contextmanager
def naming_input() -> Iterator[None]:
    """Renames the param of errors about messages, or a part of them, to `input`."""
    try:
        yield
    except InvalidRequest as error:
        if error.param and error.param.startswith("messages"):
            error.message = error.message.replace(error.param, "input")
            error.param = "input"
        raise
