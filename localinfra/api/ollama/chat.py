"""POST /api/chat: Ollama's conversations, over the same turns as OpenAI's and Anthropic's."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.call import Call
from localinfra.api.generation.tools import SentTools, Tools, read_tools, tool_use
from localinfra.api.generation.usage import UsageMeter
from localinfra.api.ollama.answer import OllamaAnswer, OllamaCall, OllamaReply, Said, Stopwatch
from localinfra.api.ollama.calls import load_or_unload, text_model
from localinfra.api.ollama.options import TextFields
from localinfra.api.pictures import with_pictures
from localinfra.chat.answer import Answer
from localinfra.chat.messages import (
    MAX_CALLS,
    MAX_MESSAGES,
    ContentPart,
    Message,
    Role,
    ToolCall,
    left_out,
)
from localinfra.text.turn import TurnRequest, begin_turn

ROUTE = "/api/chat"
Images = Annotated[list[str], Meta(max_length=MAX_MESSAGES)]  # base64


class OllamaMessage(msgspec.Struct, frozen=True):
    role: Role
    content: str | None = None
    thinking: str | None = None
    images: Images = []
    tool_calls: Annotated[list[ToolCall], Meta(max_length=MAX_CALLS)] = []
    tool_name: str | None = None  # in results, like the next
    tool_call_id: str | None = None

    def message(self) -> Message:
        content: str | list[ContentPart] | None = self.content
        if self.images:
            content = with_images(self.content or "", self.images)
        return Message(
            role=self.role,
            content=content,
            name=self.tool_name,
            tool_calls=self.tool_calls or None,
            tool_call_id=self.tool_call_id,
            reasoning_content=self.thinking,
        )


def with_images(text: str, images: Sequence[str]) -> list[ContentPart]:
    """The images come first, as in Ollama. They are not decoded yet: what becomes of such parts is
    decided where all conversations are read."""
    texts = [ContentPart("text", text)] if text else []
    return [*(ContentPart("image", image_url=image) for image in images), *texts]


class ChatFields(TextFields, frozen=True, kw_only=True):
    messages: Annotated[list[OllamaMessage], Meta(max_length=MAX_MESSAGES)] = msgspec.field(
        default_factory=list
    )
    tools: SentTools = msgspec.field(default_factory=list)

    def asked(self) -> tuple[Tools, list[Message], Answer]:
        """The tools, the conversation, and the form required of the answer. Raises InvalidRequest
        or UnsupportedParameter."""
        tools = read_tools(self.tools)
        answer = Answer(self.answer_format, tool_use(tools, None, is_parallel=True))
        return tools, [message.message() for message in self.messages], answer


class ChatReply(OllamaReply, frozen=True, kw_only=True):
    message: "OllamaAssistantMessage"


class OllamaAssistantMessage(msgspec.Struct, frozen=True):
    role: str
    content: str
    thinking: str | UnsetType = UNSET
    tool_calls: Sequence[OllamaCall] | UnsetType = UNSET


class OllamaChatAnswer(OllamaAnswer):
    def reply(self, said: Said, frame: OllamaReply) -> ChatReply:
        return chat_reply(said, frame)


def chat_reply(said: Said, frame: OllamaReply) -> ChatReply:
    message = OllamaAssistantMessage(
        "assistant", said.content, said.thinking or UNSET, said.tool_calls or UNSET
    )
    return ChatReply(message=message, **msgspec.structs.asdict(frame))


async def create_ollama_chat(request: Request) -> Response:
    """Answers a conversation, in the form of Ollama's clients.

    Without messages, the model is loaded, or unloaded with `keep_alive` 0."""
    call = await Call.begin(request, ChatFields, has_type=False)
    body, watch = call.body, Stopwatch(call.started_s)
    if not body.messages:
        return call.json(chat_reply(Said(), await load_or_unload(call, ROUTE)))
    tools, messages, answer = await call.convert(body.asked)
    model = await text_model(call, ROUTE)
    charge = call.charge(model)
    watch.loaded()
    messages, shown = await with_pictures(call, model, messages)
    wanted = TurnRequest(
        messages=messages,
        shown=shown,
        answer=answer,
        template_kwargs=body.template_kwargs,
        params=body.text_params(model, call.default_seed),
    )
    turn = await begin_turn(model, wanted, call.caller)
    call.report_ignored([*tools.left_out, *unread_parts(messages)], tools.unknown)
    call.report_ignored([*body.unmet(model), *turn.left_out])
    meter = UsageMeter(charge, turn.deltas, [turn.num_prompt], 1, turn.num_image_tokens)
    reply = OllamaChatAnswer(model, turn.deltas, meter, watch)
    if body.stream:
        return call.lines(reply.lines(), turn.deltas, reply.heartbeat)
    return call.json(await reply.whole())


def unread_parts(messages: Sequence[Message]) -> list[str]:
    """Paths in the request of parts that the model can't read but can do without."""
    paths = (path.partition(".content[") for path in left_out(messages))
    return list(dict.fromkeys(f"{at}.images" if part else at for at, part, _ in paths))
