"""`input` of a Responses request → items → chat messages."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import UNSET, Meta

from localinfra.api.generation.carried import read_carried
from localinfra.api.http.body import decode_within
from localinfra.api.http.held import holding
from localinfra.api.openai.responses.foreign import FOREIGN
from localinfra.api.openai.responses.items import (
    READABLE,
    AnyItem,
    CompactionItem,
    FunctionCallItem,
    FunctionCallOutputItem,
    InputImage,
    InputPart,
    InputSound,
    InputText,
    MessageItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    Role,
    Status,
    SummaryText,
    new_id,
    parts_of,
)
from localinfra.chat.messages import (
    MAX_MESSAGES,
    TEXT_TYPES,
    FunctionCall,
    Message,
    ToolCall,
    json_text,
)
from localinfra.chat.unread import note_for
from localinfra.errors import InvalidRequest, UnsupportedParameter

Find = Callable[[str, str], AnyItem]  # (a stored item's id, the reference's path) → the item

ID_CHARS = 1000  # by which calls are told apart: to hash 16 MB of emojis takes 13 ms

# --- items as clients send them: missing fields, nulls, text in place of parts --------------------


Parts: TypeAlias = Annotated[list[InputPart], Meta(max_length=MAX_MESSAGES)]


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that tell an item's kind."""

    type: str | None = None
    role: str | None = None

    @property
    def kind(self) -> str:
        return self.type or ("message" if self.role else "item_reference")


class SentItem(msgspec.Struct, frozen=True, kw_only=True):
    type: str | None = None
    id: str | None = None
    status: Status | None = None
    internal_chat_message_metadata_passthrough: Any = None  # no effect: Codex's own


class SentMessage(SentItem, frozen=True, kw_only=True):
    role: Role
    content: str | Parts | None


class SentReasoning(SentItem, frozen=True, kw_only=True):
    summary: Parts | None = None
    content: Parts | None = None
    encrypted_content: str | None = None  # read if there is no text and it is from this server


class SentCall(SentItem, frozen=True, kw_only=True):
    call_id: str
    name: str
    namespace: str | None = None
    arguments: str | dict[str, Any] | None


class SentOutput(SentItem, frozen=True, kw_only=True):
    call_id: str
    output: str | Parts | None


class SentCompaction(SentItem, frozen=True, kw_only=True):
    encrypted_content: str | None = None


class ItemReference(msgspec.Struct, frozen=True):
    id: str
    type: str | None = None


# An item of `input`; others are ignored, or read by the structs in foreign.py.
SentAny: TypeAlias = Annotated[
    Any,
    holding(SentMessage, SentReasoning, SentCall, SentOutput, SentCompaction, ItemReference),
]


# --- input → items --------------------------------------------------------------------------------


class Input(msgspec.Struct, frozen=True):
    """A request's items, and what was ignored in them."""

    items: list[AnyItem]
    paths: list[str]  # per item; two items may share one
    left_out: list[str]  # paths of ignored parts
    unknown: list[str]  # paths of unknown names
    orphanable: set[str] = set()  # paths of outputs whose calls may have been ignored
    unread: list[str] = []  # paths of parts of the user's last message that are no text
    triggers: list[str] = []  # paths of items that ask for a summary in place of an answer
    sees: bool = False  # the model may read images and sounds


def read_input(
    given: str | Sequence[Any], find: Find, *, sees: bool = False, others: str = ""
) -> Input:
    """Reads a request's `input`. `find` looks up item references. `others`: a sentence about models
    that read more than text, for a model that doesn't.

    Calls of other kinds of tools, and their outputs, become function calls. Items without text are
    ignored, and a note stands for an image, except in the user's last message or if the model
    `sees`. Raises
    InvalidRequest with the path, UnsupportedParameter for an image in that one, and the errors of
    `find`.
    """
    if isinstance(given, str):
        message = MessageItem(id=new_id("msg"), role="user", content=(InputText(given),))
        return Input([message], ["input"], [], [])
    found = Input([], [], [], [], set(), [], [], sees)
    for at, sent in enumerate(given):
        if sent is None:
            continue
        path = f"input[{at}]"
        items = _items(sent, path, find, found)
        found.items.extend(items)
        found.paths.extend([path] * len(items))
    if found.unread:
        raise UnsupportedParameter(
            "Of this part the model can read nothing: send input_text, an input_image with a data "
            "URL as image_url, or an input_audio."
            if sees
            else f"This model takes text only, no images or files: send input_text parts.{others}",
            found.unread[0],
        )
    items = found.items
    if items and isinstance(last := items[-1], MessageItem) and last.role == "assistant":
        items[-1] = msgspec.structs.replace(last, status="incomplete")  # it will be continued
    return found


def _items(given: Any, path: str, find: Find, found: Input) -> list[AnyItem]:
    kind, unknown = decode_within(path, given, Sent, []).kind, found.unknown
    if kind == "message":
        return [_message(decode_within(path, given, SentMessage, unknown), path, found)]
    if kind == "reasoning":
        reasoning = decode_within(path, given, SentReasoning, unknown)
        thought = _reasoning(reasoning, path, found.left_out)
        found.left_out.extend([] if thought.text else [path])
        return [thought]
    if kind == "function_call":
        call = decode_within(path, given, SentCall, unknown)
        return [
            FunctionCallItem(
                id=call.id or new_id("fc"),
                status=call.status or "completed",
                call_id=call.call_id,
                name=call.name,
                namespace=call.namespace or msgspec.UNSET,
                arguments=json_text(call.arguments or ""),
            )
        ]
    if kind == "function_call_output":
        sent = decode_within(path, given, SentOutput, unknown)
        return [_output(sent, path, found.left_out, found.sees)]
    if kind == "item_reference":
        return [find(decode_within(path, given, ItemReference, unknown).id, path)]
    if kind == "compaction_trigger":
        found.triggers.append(path)
        return []
    if kind.endswith("_output"):
        found.orphanable.add(path)
    with contextlib.suppress(InvalidRequest):  # an invalid one comes from elsewhere: ignore it
        if kind == "custom_tool_call_output":
            sent = decode_within(path, given, SentOutput, unknown)
            return [_output(sent, path, found.left_out, found.sees)]
        if kind in ("compaction", "compaction_summary"):
            content = decode_within(path, given, SentCompaction, unknown).encrypted_content or ""
            if content.startswith(READABLE):
                return [CompactionItem(id=new_id("cmp"), encrypted_content=content)]
        if kind in FOREIGN:
            return decode_within(path, given, FOREIGN[kind], []).items()
    found.left_out.append(path)
    return []


def _message(sent: SentMessage, path: str, found: Input) -> MessageItem:
    path = f"{path}.content"
    unread: list[str] = []
    part = OutputText if sent.role == "assistant" else InputText
    content: Sequence[InputText | InputImage | InputSound | OutputText]
    if isinstance(sent.content, str) or sent.content is None:
        content = [part(sent.content or "")]
    elif not sent.content and sent.role != "assistant":
        raise InvalidRequest("A list of content parts needs at least one.", path)
    elif sent.role == "user":
        content = [*_shown(sent.content, path, unread, found.sees)]
    else:
        content = [part(text) for text in _texts(sent.content, path, found.left_out)]
    if sent.role == "user":
        found.left_out.extend(found.unread)
        found.unread[:] = unread
    return MessageItem(
        id=sent.id or new_id("msg"),
        status=sent.status or "completed",
        role=sent.role,
        content=tuple(content),
    )


def _reasoning(sent: SentReasoning, path: str, left_out: list[str]) -> ReasoningItem:
    summary = _texts(sent.summary or (), f"{path}.summary", left_out)
    content = _texts(sent.content or (), f"{path}.content", left_out)
    if not any([*summary, *content]) and (text := read_carried(sent.encrypted_content)):
        content = [text]
    return ReasoningItem(
        id=sent.id or new_id("rs"),
        status=sent.status or "completed",
        summary=tuple(map(SummaryText, summary)),
        content=tuple(map(ReasoningText, content)),
    )


def _output(sent: SentOutput, path: str, left_out: list[str], sees: bool) -> FunctionCallOutputItem:
    output: str | tuple[InputText | InputImage | InputSound, ...]
    if isinstance(sent.output, str) or sent.output is None:
        output = sent.output or ""
    else:
        output = tuple(_shown(sent.output, f"{path}.output", left_out, sees))
    return FunctionCallOutputItem(
        id=sent.id or new_id("fco"),
        status=sent.status or "completed",
        call_id=sent.call_id,
        output=output,
    )


TEXT_PARTS = TEXT_TYPES | {"reasoning_text", "summary_text", "refusal"}


def _is_text(part: InputPart) -> bool:
    return part.type in TEXT_PARTS


def _texts(parts: Sequence[InputPart], path: str, left_out: list[str]) -> list[str]:
    """The text of the parts. The others are ignored: the model produced them, and the conversation
    can go on without them."""
    placed = [(part, f"{path}[{at}]") for at, part in enumerate(parts)]
    left_out += [place for part, place in placed if not _is_text(part)]
    return [_text(part, place) for part, place in placed if _is_text(part)]


def _shown(
    parts: Sequence[InputPart], path: str, left_out: list[str], sees: bool
) -> Iterator[InputText | InputImage | InputSound]:
    """The text of the parts, images if the model `sees`, and notes for the others."""
    for at, part in enumerate(parts):
        if _is_text(part):
            yield InputText(_text(part, f"{path}[{at}]"))
        elif sees and (media := part.media):
            yield media
        else:
            left_out.append(f"{path}[{at}]")
            yield InputText(note_for(part.type))


def _text(part: InputPart, path: str) -> str:
    field = "refusal" if part.type == "refusal" else "text"
    text = part.refusal if field == "refusal" else part.text
    if text is UNSET:
        raise InvalidRequest(
            f"A part of type {part.type} needs a {field} field.", f"{path}.{field}"
        )
    return text or ""


def without_orphans(earlier: Iterable[AnyItem], sent: Input) -> Input:
    """The input without outputs whose calls were ignored."""
    called = calls_in(earlier) | calls_in(sent.items)
    kept = [
        (item, path)
        for item, path in zip(sent.items, sent.paths, strict=True)
        if path not in sent.orphanable
        or not isinstance(item, FunctionCallOutputItem)
        or item.call_id[:ID_CHARS] in called
    ]
    paths = [path for _, path in kept]
    known = set(paths)
    orphans = [path for path in sent.paths if path not in known]
    left_out = [*sent.left_out, *orphans]
    items = [item for item, _ in kept]
    return msgspec.structs.replace(sent, items=items, paths=paths, left_out=left_out)


def check_outputs(
    earlier: Iterable[AnyItem], items: Sequence[AnyItem], paths: Sequence[str] = ()
) -> None:
    """Raises InvalidRequest for an output without an earlier call."""
    called = calls_in(earlier)
    for at, item in enumerate(items):
        called |= calls_in([item])
        if isinstance(item, FunctionCallOutputItem) and item.call_id[:ID_CHARS] not in called:
            raise InvalidRequest(
                f"No tool call found for function call output with call_id {item.call_id[:100]}. "
                "Send the function_call item before it, or the previous_response_id of the "
                "response that made the call.",
                f"{paths[at] if paths else f'input[{at}]'}.call_id",
            )


def calls_in(items: Iterable[AnyItem]) -> set[str]:
    """What the ids begin with by which outputs may refer to calls."""
    calls = [item for item in items if isinstance(item, FunctionCallItem)]
    return {id[:ID_CHARS] for call in calls for id in (call.call_id, call.id)}


# --- items → messages -----------------------------------------------------------------------------


def messages_of(items: Iterable[AnyItem]) -> list[Message]:
    """The conversation in the form of chat templates: consecutive reasoning, messages and calls of
    the assistant become one message."""
    messages: list[Message] = []
    for is_assistant, run in itertools.groupby(items, _is_assistant):
        if not is_assistant:
            messages += map(_other_message, run)
        elif message := _assistant_message(list(run)):
            messages.append(message)
    return messages


def _is_assistant(item: AnyItem) -> bool:
    if isinstance(item, MessageItem):
        return item.role == "assistant"
    return isinstance(item, ReasoningItem | FunctionCallItem)


def _other_message(item: AnyItem) -> Message:
    if isinstance(item, FunctionCallOutputItem):
        parts = item.text if isinstance(item.output, str) else parts_of(item.output)
        return Message(role="tool", content=parts, tool_call_id=item.call_id)
    if isinstance(item, CompactionItem):
        return Message(role="user", content=item.text)
    assert isinstance(item, MessageItem)
    return Message(role=item.role, content=parts_of(item.content))


def _assistant_message(items: Sequence[AnyItem]) -> Message | None:
    """None if nothing is left: calls that were cut off are dropped, as they have no output."""
    thoughts = [item.text for item in items if isinstance(item, ReasoningItem) and item.text]
    calls = [
        ToolCall(FunctionCall(item.flat_name, item.arguments), item.call_id)
        for item in items
        if isinstance(item, FunctionCallItem) and item.status != "incomplete"
    ]
    content = _content([item for item in items if isinstance(item, MessageItem)])
    if content is None and not calls and not thoughts:
        return None
    return Message(
        role="assistant",
        content=content,
        tool_calls=calls or None,
        reasoning_content="\n".join(thoughts) or None,
    )


def _content(messages: Sequence[MessageItem]) -> str | None:
    if not messages:
        return None
    *earlier, last = messages
    ends = ["" if message.status == "incomplete" else "\n" for message in earlier]
    texts = [message.text + end for message, end in zip(earlier, ends, strict=True)]
    return "".join([*texts, last.text])
