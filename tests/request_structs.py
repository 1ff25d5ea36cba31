"""The structs of all request bodies, and every place in them."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from large_bodies import sample
from msgspec import inspect

from localinfra.api import chats, cohere, rerank, tokens
from localinfra.api.anthropic import input as messages_input
from localinfra.api.anthropic import messages
from localinfra.api.deepinfra import encoders as native_encoders
from localinfra.api.deepinfra import images as native_images
from localinfra.api.deepinfra import text as native_text
from localinfra.api.generation import tools
from localinfra.api.ollama import chat as ollama_chat
from localinfra.api.ollama import embed as ollama_embed
from localinfra.api.ollama import generate as ollama_generate
from localinfra.api.ollama import managing as ollama_managing
from localinfra.api.openai import chat, completions, embeddings, image_edits, images, managing
from localinfra.api.openai.responses import input as responses_input
from localinfra.api.openai.responses import request as responses_request
from localinfra.api.openai.responses import tools as responses_tools
from localinfra.api.openai.responses.foreign import FOREIGN

CHAT = chat.ChatCompletionRequest
RESPONSES = responses_request.ResponsesRequest
MESSAGES = messages.MessageRequest
COMPLETIONS = completions.CompletionRequest

HELLO = [{"role": "user", "content": "Hello"}]
BODIES: dict[type[Any], dict[str, Any]] = {
    CHAT: {"model": "m", "messages": HELLO},
    RESPONSES: {"model": "m", "input": "Hello"},
    MESSAGES: {"model": "m", "messages": HELLO},
    COMPLETIONS: {"model": "m", "prompt": "Hello"},
}
ADD = {"type": "function", "name": "add"}
CALL = {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"}


def user(*parts: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*parts], **more}]


KINDS: list[type[msgspec.Struct]] = [
    CHAT,
    RESPONSES,
    MESSAGES,
    COMPLETIONS,
    chat.EngineChatCompletionRequest,
    messages_input.PromptFields,
    completions.EngineCompletionRequest,
    embeddings.EmbeddingsRequest,
    embeddings.EngineEmbeddingsRequest,
    cohere.EmbedRequest,
    rerank.RerankRequest,
    images.ImageFields,
    image_edits.EditFields,
    tokens.TokenizeRequest,
    tokens.DetokenizeRequest,
    native_text.TextBody,
    native_encoders.EmbeddingBody,
    native_encoders.RerankBody,
    native_images.ImageBody,
    native_images.CogInput,
    managing.PullRequest,
    chats.ChatBody,
    ollama_chat.ChatFields,
    ollama_generate.GenerateFields,
    ollama_embed.OllamaEmbedFields,
    ollama_embed.OldEmbedFields,
    ollama_managing.ManagingFields,
    ollama_managing.OllamaPullFields,
]
PARTS: list[type[msgspec.Struct]] = [  # of bodies, which are read by themselves
    responses_input.Sent, responses_input.SentMessage, responses_input.SentReasoning,
    responses_input.SentCall, responses_input.SentOutput, responses_input.SentCompaction,
    responses_input.ItemReference,
    responses_tools.SentNamespace, tools.ToolType, tools.SentFunction,
    *FOREIGN.values(),
]  # fmt: skip


def takes_anything(info: inspect.Type) -> bool:
    """JSON of any kind: read later, if at all."""
    if isinstance(info, inspect.Metadata):
        return takes_anything(info.type)
    return isinstance(info, inspect.AnyType | inspect.RawType)


Wrap = Callable[[bytes], bytes]


def places(
    info: inspect.Type, path: str = "", wrap: Wrap = lambda raw: raw, within: tuple[type, ...] = ()
) -> Iterator[tuple[str, inspect.Type, Wrap]]:
    """Each place of a body, at any depth: its path, what may stand there, and how JSON of it
    becomes a body, which has little else."""
    match info:
        case inspect.Metadata():
            yield from places(info.type, path, wrap, within)
        case inspect.UnionType():
            for member in info.types:
                yield from places(member, path, wrap, within)
        case inspect.ListType():
            yield from places(info.item_type, f"{path}[0]", lambda raw: wrap(b"[%b]" % raw), within)
        case inspect.StructType() if info.cls not in within:
            yield path, info, wrap
            for field in info.fields:

                def place(raw: bytes, field: inspect.Field = field) -> bytes:
                    return wrap(json_of(info, field, raw))

                here = f"{path}.{field.encode_name}".lstrip(".")
                yield from places(field.type, here, place, (*within, info.cls))
        case _:
            yield path, info, wrap


def json_of(
    info: inspect.StructType, field: inspect.Field | None = None, raw: bytes = b""
) -> bytes:
    """An object of what it must have, with this for the field."""
    values = {one.encode_name: sample(one.type) for one in info.fields if one.required}
    if field is not None:
        values[field.encode_name] = raw
    return b"{%b}" % b",".join(
        b'"%b":%b' % (name.encode(), value) for name, value in values.items()
    )


def has_default(field: inspect.Field) -> bool:
    """Else it is unset."""
    return (field.default, field.default_factory) != (msgspec.NODEFAULT, msgspec.NODEFAULT)
