"""Chat messages as clients send them, and the plain values that templates read.

Decodes and validates; renders nothing and knows no model.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from localinfra.chat.decoding import values_of
from localinfra.chat.encoding import json_of
from localinfra.chat.unread import note_for
from localinfra.errors import InvalidRequest, UnsupportedParameter
from localinfra.steps import done

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

Plain: TypeAlias = dict[str, Json]  # a message as templates read it

MAX_MESSAGES = 10_000  # per conversation; also content parts per message
MAX_CALLS = 1024  # per message
MAX_LEVELS = 256  # of a call's parsed arguments: code that walks them recurses as deep
TypeName = Annotated[str, Meta(max_length=100)]

# The types of parts that hold a picture or a sound, of all APIs; `audio_url` is vLLM's.
PICTURE_TYPES = frozenset({"image_url", "input_image", "image"})
SOUND_TYPES = frozenset({"input_audio", "audio_url"})

TEXTS_LOOKED_AT = 10_000  # to estimate the size of a conversation
CHARACTERS_OF_MARKS = 10  # around a message

JSON_TEXT = "json_text"  # of a field that holds JSON: its value becomes text when it is read
if TYPE_CHECKING:
    JsonText: TypeAlias = str
else:  # clients may send the object itself; the struct holds text
    JsonText = Annotated[str | dict[str, Any], Meta(extra={JSON_TEXT: True})]

Role = Literal["system", "developer", "user", "assistant", "tool"]

# The types of text parts in all of OpenAI's APIs: clients mix them up.
TEXT_TYPES = frozenset({"text", "input_text", "output_text"})

# Parts of an assistant's content that hold its reasoning: Mistral's, and those of other APIs.
THOUGHT_TYPES = frozenset({"thinking", "reasoning"})
MAX_THOUGHT_LEVELS = 4  # of blocks in blocks


class ImageUrl(msgspec.Struct, frozen=True):
    """A picture for models that see."""

    url: str = ""  # a data URL, or where `fetch_images` is set an address
    detail: TypeName | None = None  # low: a smaller picture, which takes fewer tokens


class InputAudio(msgspec.Struct, frozen=True):
    """A sound for models that hear."""

    data: str = ""  # a file in base64, or as a data URL
    format: TypeName | None = None  # wav or mp3; what counts is the file itself


class AudioUrl(msgspec.Struct, frozen=True):
    url: str = ""  # a data URL


class ContentPart(msgspec.Struct, frozen=True):
    """One part of a content list. Only text, pictures, sounds, and an assistant's reasoning and
    `refusal`, can be honoured."""

    type: TypeName
    text: str | UnsetType | None = UNSET
    refusal: str | UnsetType | None = UNSET
    thinking: Any = None  # text, or blocks of it
    image_url: str | ImageUrl | UnsetType | None = UNSET  # in image_url and input_image
    detail: TypeName | None = None  # in input_image
    input_audio: InputAudio | UnsetType | None = UNSET
    audio_url: str | AudioUrl | UnsetType | None = UNSET

    def field(self, role: "Role") -> Literal["text", "refusal"] | None:
        """The field that holds text for the model, or None if no field does."""
        if self.type in TEXT_TYPES:
            return "text"
        return "refusal" if self.type == "refusal" and role == "assistant" else None

    def is_thought(self, role: "Role") -> bool:
        return role == "assistant" and self.type in THOUGHT_TYPES

    @property
    def thought(self) -> str:
        return thought_in(self.thinking) or self.text or ""

    @property
    def picture(self) -> ImageUrl | None:
        if self.type not in PICTURE_TYPES or not self.image_url:
            return None
        found = self.image_url
        return ImageUrl(found, self.detail) if isinstance(found, str) else found

    @property
    def sound(self) -> str | None:
        """In base64, or as a data URL."""
        if self.type not in SOUND_TYPES:
            return None
        if self.input_audio:
            return self.input_audio.data
        found = self.audio_url
        return found.url if isinstance(found, AudioUrl) else found or None


class PictureMark(ContentPart, frozen=True):
    """The place of a picture or a sound that the model reads: `text` stands for it until the prompt
    is made."""


def thought_in(value: object, levels: int = MAX_THOUGHT_LEVELS) -> str:
    """The text in reasoning that a client sent as text or as blocks; "" in anything else, such as
    encrypted blocks."""
    if isinstance(value, str):
        return value
    if not levels:
        return ""
    if isinstance(value, list):
        return "\n".join(filter(None, (thought_in(part, levels - 1) for part in value)))
    if isinstance(value, dict):
        texts = (thought_in(value.get(key), levels - 1) for key in ("thinking", "text", "summary"))
        return next(filter(None, texts), "")
    return ""


def json_text(value: object) -> str:
    """The text of JSON that a client sent as text or as a value."""
    if isinstance(value, str):
        return value
    return json_of(value).decode()


class FunctionCall(msgspec.Struct, frozen=True):
    name: str
    arguments: JsonText = ""  # JSON, as the model wrote it; not always valid

    def __post_init__(self) -> None:
        text = json_text(self.arguments)
        if text is not self.arguments:
            msgspec.structs.force_setattr(self, "arguments", text)


class CustomCall(msgspec.Struct, frozen=True):
    """A call of a custom tool, which takes free-form text such as a patch."""

    name: str
    input: str = ""


class ToolCall(msgspec.Struct, frozen=True):
    """Custom calls become function calls; unknown kinds are left out."""

    function: FunctionCall = FunctionCall("")
    id: str | None = None
    type: TypeName = "function"
    custom: CustomCall | UnsetType | None = UNSET

    @property
    def is_function(self) -> bool:
        return self.type == "function" or bool(self.function.name)


Parts: TypeAlias = Annotated[list[ContentPart], Meta(max_length=MAX_MESSAGES)]


class Message(msgspec.Struct, frozen=True):
    """A message of a conversation. https://platform.openai.com/docs/api-reference/chat/create"""

    role: Role
    content: str | Parts | UnsetType | None = UNSET
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=MAX_CALLS)] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    # reasoning by other names: those of vLLM, Ollama, OpenRouter and LiteLLM
    reasoning: Any = None  # Any: whatever else is called so is ignored
    thinking: Any = None
    reasoning_details: Any = None
    thinking_blocks: Any = None

    @property
    def other_thoughts(self) -> Sequence[object]:
        return self.reasoning, self.thinking, self.reasoning_details, self.thinking_blocks

    @property
    def thought(self) -> str | None:
        """The reasoning by the first name that has any: a client may send it by several."""
        texts = [self.reasoning_content or "", *map(thought_in, self.other_thoughts)]
        if isinstance(self.content, list):
            parts = (part.thought for part in self.content if part.is_thought(self.role))
            texts.append("\n".join(filter(None, parts)))
        return next(filter(None, texts), self.reasoning_content)


def normalize(messages: Sequence[Message], *, parse_arguments: bool = True) -> list[Plain]:
    """Messages → plain values for a chat template, absent fields left out.

    Text parts are joined by a newline, as vLLM and llama.cpp's server do for text-only models.
    `content` is always present: None on an assistant message that has only tool calls. Arguments
    of tool calls become an object if they are valid JSON of one (`""` is an empty one), since most
    templates expect a mapping; otherwise, or without `parse_arguments`, they stay text.

    Raises InvalidRequest naming the path of the mistake, UnsupportedParameter for a non-text part
    of the user's last message. In others such parts are `left_out`: else an image would end the
    conversation for good, as clients send it again with each turn.
    """
    return [_plain(message, parse_arguments) for message in checked(messages)]


def checked(messages: Sequence[Message]) -> list[Message]:
    """The messages with text or None as content. Raises the same errors as `normalize`."""
    if not messages:
        raise InvalidRequest("messages is empty; send at least one message.", "messages")
    asked = last_of_user(messages)
    return [
        _checked(message, f"messages[{at}]", is_asked=at == asked)
        for at, message in enumerate(messages)
    ]


def last_of_user(messages: Sequence[Message]) -> int:
    return max((at for at, message in enumerate(messages) if message.role == "user"), default=-1)


def texts_of(messages: Sequence[Message]) -> Iterator[str]:
    """Texts that any prompt contains: not an assistant's, which may hold old reasoning."""
    for message in messages:
        if message.role == "assistant" or not message.content:
            continue
        if isinstance(message.content, str):
            yield message.content
        else:
            yield from (part.text or "" for part in message.content)


def size_of(messages: Sequence[Message]) -> int:
    """Characters, marks included; a guess if there are too many texts to look at."""
    sizes = (len(text) + CHARACTERS_OF_MARKS for text in texts_of(messages))
    size = sum(itertools.islice(sizes, TEXTS_LOOKED_AT))
    return size if next(sizes, None) is None else size + 10**6


def left_out(messages: Sequence[Message]) -> list[str]:
    """Paths of parts that the model can't read but can do without: calls of unknown kinds, and
    images and sounds outside of the user's last message."""
    paths: list[str] = []
    asked = last_of_user(messages)
    for at, message in enumerate(messages):
        paths += [
            f"messages[{at}].tool_calls[{index}]"
            for index, call in enumerate(message.tool_calls or ())
            if not call.is_function and not call.custom
        ]
        if at != asked and isinstance(message.content, list):
            paths += [
                f"messages[{at}].content[{index}]"
                for index, part in enumerate(message.content)
                if part.field(message.role) is None and not part.is_thought(message.role)
            ]
    return paths


def _checked(message: Message, path: str, *, is_asked: bool) -> Message:
    if message.tool_calls:
        if message.role != "assistant":
            raise InvalidRequest("Only assistant messages have tool_calls.", f"{path}.tool_calls")
        calls = _functions(message.tool_calls, f"{path}.tool_calls")
        if calls != message.tool_calls:
            message = msgspec.structs.replace(message, tool_calls=calls)
    content = _content(message, path, is_asked=is_asked)
    thought = message.thought if message.role == "assistant" else message.reasoning_content
    if content is message.content and not any(message.other_thoughts):
        return message
    return Message(
        message.role,
        content,
        name=message.name,
        tool_calls=message.tool_calls,
        tool_call_id=message.tool_call_id,
        reasoning_content=thought,
    )


def _functions(calls: Sequence[ToolCall], path: str) -> list[ToolCall]:
    """The calls as function calls, the only kind that templates know."""
    functions = []
    for at, call in enumerate(calls):
        if call.is_function:
            if not call.function.name:
                raise InvalidRequest("A call needs a function.", f"{path}[{at}].function")
            functions.append(call)
        elif call.custom:
            arguments = json_of({"input": call.custom.input}).decode()
            functions.append(ToolCall(FunctionCall(call.custom.name, arguments), call.id))
    return functions


def _plain(message: Message, parse_arguments: bool) -> Plain:
    assert message.content is None or isinstance(message.content, str)
    plain: Plain = {"role": message.role, "content": message.content}
    if message.tool_calls:
        plain["tool_calls"] = [_plain_call(call, parse_arguments) for call in message.tool_calls]
    optional = {
        "name": message.name,
        "tool_call_id": message.tool_call_id,
        "reasoning_content": message.reasoning_content,
    }
    return plain | {key: value for key, value in optional.items() if value is not None}


def _content(message: Message, path: str, *, is_asked: bool) -> str | None:
    content = message.content
    if isinstance(content, str):
        return content
    if content or (content == [] and message.role not in ("assistant", "tool")):
        return _joined(content, message.role, f"{path}.content", is_asked=is_asked)
    if message.role == "assistant":
        if message.refusal is not None:
            return message.refusal
        if message.tool_calls:
            return None
    if content is UNSET and message.thought is None:
        needs = "content or tool_calls" if message.role == "assistant" else "content"
        raise InvalidRequest(f"This {message.role} message needs {needs}.", f"{path}.content")
    return ""  # an empty answer, or a tool without output


def _joined(parts: Sequence[ContentPart], role: Role, path: str, *, is_asked: bool) -> str:
    """`is_asked`: parts that the model can't read are refused."""
    if not parts:
        raise InvalidRequest("A list of content parts needs at least one.", path)
    pieces: list[tuple[str, bool]] = []  # texts, and whether each is a picture's mark
    for at, part in enumerate(parts):
        field = part.field(role)
        if field is None:
            if not is_asked:
                pieces += [(note_for(part.type), False)] if role in ("user", "tool") else []
                continue
            raise UnsupportedParameter(
                f"This model takes text only; a content part of type {part.type!r} can't be "
                "read. Send the message as text.",
                f"{path}[{at}]",
            )
        text = part.refusal if field == "refusal" else part.text
        if text is UNSET:
            raise InvalidRequest(
                f"A {part.type} part needs the field {field}.", f"{path}[{at}].{field}"
            )
        pieces.append((text or "", isinstance(part, PictureMark)))
    return "".join(with_breaks(pieces))


def with_breaks(pieces: Sequence[tuple[str, bool]]) -> Iterator[str]:
    """The texts, with a newline between two of them; beside a picture models expect none."""
    is_after_text = False
    for text, is_mark in pieces:
        if is_after_text and not is_mark:
            yield "\n"
        yield text
        is_after_text = not is_mark


def _plain_call(call: ToolCall, parse_arguments: bool) -> Plain:
    arguments = _parsed(call.function.arguments) if parse_arguments else call.function.arguments
    plain: Plain = {
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }
    return plain if call.id is None else {"id": call.id, **plain}


def _parsed(arguments: str) -> Json:
    try:
        parsed: Json = done(values_of(arguments.encode() or b"{}")).whole
    except (msgspec.DecodeError, RecursionError):
        return arguments
    if arguments.count("[") + arguments.count("{") > MAX_LEVELS and _is_deep(parsed):
        return arguments
    return parsed if isinstance(parsed, dict) else arguments


def _is_deep(value: Json) -> bool:
    level = [value]
    for _ in range(MAX_LEVELS):
        inner = [part for part in level if isinstance(part, list | dict)]
        level = [
            item for part in inner for item in (part.values() if isinstance(part, dict) else part)
        ]
    return bool(level)
