"""Items of the Responses API, the parts of a conversation, as they are sent and stored.

https://platform.openai.com/docs/api-reference/responses/object
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from localinfra.api.generation.logprobs import TokenLogprobEntry
from localinfra.api.http.held import holding
from localinfra.chance import random_hex
from localinfra.chat.messages import (
    PICTURE_TYPES,
    ContentPart,
    ImageUrl,
    InputAudio,
    TypeName,
)

Role = Literal["user", "system", "developer", "assistant"]
Status = Literal["in_progress", "completed", "incomplete"]

MAX_NAME_CHARS = 128  # of a function
READABLE = "localinfra:"  # begins the summaries made here; those of OpenAI are encrypted
NOT_IN_NAMES = re.compile(r"[^\w.:/-]", re.ASCII)


class InputText(msgspec.Struct, frozen=True, tag="input_text", tag_field="type"):
    text: str


class InputImage(msgspec.Struct, frozen=True, tag="input_image", tag_field="type"):
    image_url: str  # a data URL
    detail: str = "auto"

    @property
    def text(self) -> str:
        """Stands for it where only text counts."""
        return ""


class InputSound(msgspec.Struct, frozen=True, tag="input_audio", tag_field="type"):
    input_audio: InputAudio

    @property
    def text(self) -> str:
        """Stands for it where only text counts."""
        return ""


class InputPart(msgspec.Struct, frozen=True):
    type: TypeName
    text: str | UnsetType | None = UNSET
    refusal: str | UnsetType | None = UNSET
    image_url: str | ImageUrl | None = None  # some clients send chat's form
    detail: str | None = None
    input_audio: InputAudio | None = None
    annotations: Any = None  # no effect, like the next: parts of responses have them
    logprobs: Any = None

    @property
    def media(self) -> InputImage | InputSound | None:
        if self.type in PICTURE_TYPES and self.image_url:
            sent = self.image_url
            found = ImageUrl(sent, self.detail) if isinstance(sent, str) else sent
            return InputImage(found.url, found.detail or self.detail or "auto")
        return (
            InputSound(self.input_audio)
            if self.type == "input_audio" and self.input_audio
            else None
        )


class OutputText(msgspec.Struct, frozen=True, tag="output_text", tag_field="type"):
    text: str
    annotations: tuple[()] = ()  # there are no files or pages to cite
    logprobs: tuple[Annotated[msgspec.Raw, holding(TokenLogprobEntry)], ...] = ()


class ReasoningText(msgspec.Struct, frozen=True, tag="reasoning_text", tag_field="type"):
    text: str


class SummaryText(msgspec.Struct, frozen=True, tag="summary_text", tag_field="type"):
    text: str


class Item(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    id: str
    status: Status = "completed"


class MessageItem(Item, frozen=True, kw_only=True, tag="message"):
    """`incomplete`: the assistant's next message continues it."""

    role: Role
    content: tuple[InputText | InputImage | InputSound | OutputText, ...]

    @property
    def text(self) -> str:
        return "\n".join(part.text for part in self.content)


class ReasoningItem(Item, frozen=True, kw_only=True, tag="reasoning"):
    """In plain text, so that clients that keep the conversation can send it back; also in
    `encrypted_content` if they ask for that, since some send nothing else back."""

    summary: tuple[SummaryText, ...] = ()
    content: tuple[ReasoningText, ...] = ()
    encrypted_content: str | None = None

    @property
    def text(self) -> str:
        return "\n".join(part.text for part in self.content or self.summary)


class FunctionCallItem(Item, frozen=True, kw_only=True, tag="function_call"):
    call_id: str  # its output refers to it
    name: str
    namespace: str | UnsetType = UNSET  # if the function was declared in one
    arguments: str  # JSON, unless incomplete

    @property
    def flat_name(self) -> str:
        return flat_name(self.name, self.namespace or None)


class FunctionCallOutputItem(Item, frozen=True, kw_only=True, tag="function_call_output"):
    call_id: str
    output: str | tuple[InputText | InputImage | InputSound, ...]

    @property
    def text(self) -> str:
        if isinstance(self.output, str):
            return self.output
        return "\n".join(part.text for part in self.output)


class CompactionItem(Item, frozen=True, kw_only=True, tag="compaction"):
    """The summary of a conversation, to go on with in its place."""

    encrypted_content: str  # the summary, in plain text

    @property
    def text(self) -> str:
        summary = self.encrypted_content.removeprefix(READABLE)
        return f"Summary of the conversation so far:\n\n{summary}"


OutputItem: TypeAlias = MessageItem | ReasoningItem | FunctionCallItem | CompactionItem
AnyItem: TypeAlias = OutputItem | FunctionCallOutputItem


def parts_of(
    content: Sequence[InputText | InputImage | InputSound | OutputText],
) -> str | list[ContentPart]:
    """As a message holds it."""
    if not any(isinstance(part, InputImage | InputSound) for part in content):
        return "\n".join(part.text for part in content)
    return [part_of(part) for part in content]


def part_of(part: InputText | InputImage | InputSound | OutputText) -> ContentPart:
    if isinstance(part, InputImage):
        return ContentPart("image_url", image_url=ImageUrl(part.image_url, part.detail))
    if isinstance(part, InputSound):
        return ContentPart("input_audio", input_audio=part.input_audio)
    return ContentPart("text", part.text)


def flat_name(name: str, namespace: str | None) -> str:
    """A function's name for the model: templates have no namespaces, and a namespace may contain
    any characters."""
    if not namespace or len(namespace) > MAX_NAME_CHARS:
        return name
    space = NOT_IN_NAMES.sub(_spelled, namespace)
    flat = f"{space}{name}" if space.endswith("__") else f"{space}__{name}"
    return flat if len(flat) <= MAX_NAME_CHARS else name


def _spelled(found: re.Match[str]) -> str:
    """Letters become their codes, so that names stay distinct; other characters become `_`."""
    return f"{ord(found[0]):x}" if found[0].isalnum() else "_"


def new_id(kind: str) -> str:
    """An unguessable id in OpenAI's form."""
    return f"{kind}_{random_hex(48)}"
