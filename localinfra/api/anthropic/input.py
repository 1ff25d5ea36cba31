"""A conversation in Anthropic's shapes → the types of `chat`: messages, tools, template kwargs.

Shapes and rules: https://platform.claude.com/docs/en/api/messages. Pure; knows no model.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from localinfra.api.generation.carried import read_carried
from localinfra.api.generation.thinking import Thinking
from localinfra.api.generation.tools import (
    MAX_TOOLS,
    NamedFunction,
    NamedTool,
    answer_of,
    declared_tool,
    no_function_to_call,
    use_of,
)
from localinfra.chat.answer import Answer, AnswerFormat, Tool, ToolUse
from localinfra.chat.messages import (
    MAX_MESSAGES,
    TEXT_TYPES,
    FunctionCall,
    Json,
    Message,
    ToolCall,
    TypeName,
    json_text,
)
from localinfra.chat.unread import note_for
from localinfra.errors import ApiError, InvalidRequest, UnsupportedParameter

T = TypeVar("T")

Name = Annotated[str, Meta(max_length=256)]


class DocumentSource(msgspec.Struct, frozen=True):
    """The source of a document or an image. Only the types text and content hold text."""

    type: TypeName = ""
    data: str | None = None
    content: "Content | None" = None
    media_type: str | None = None  # no effect: the data tell it
    url: str | None = None  # of an image, with type url


class Block(msgspec.Struct, frozen=True):
    """One block of content. Its type determines the fields it must have."""

    type: TypeName
    text: str | UnsetType | None = UNSET  # in text
    thinking: str | UnsetType | None = UNSET  # in thinking
    id: str | None = None  # in tool_use, like the next two
    name: str | None = None
    input: str | dict[str, Any] | UnsetType | None = UNSET
    tool_use_id: str | None = None  # in tool_result, like the next two
    content: "Content | dict[str, Any] | None" = None
    is_error: bool | None = None
    title: str | None = None  # in document and search_result, like the next
    source: str | DocumentSource | None = None
    cache_control: Any = None  # no effect: every prefix is cached anyway
    signature: str | None = None  # in thinking; holds it if it was hidden

    @property
    def has_text(self) -> bool:
        if isinstance(self.source, DocumentSource) and self.type == "document":
            return self.source.type in ("text", "content")
        return self.type in TEXT_TYPES or self.type in ("search_result", "compaction")

    @property
    def is_known(self) -> bool:
        return self.has_text or self.type in READABLE


# Claude Code's first line of `system` is for Anthropic's bills and changes with every conversation,
# even with every request. Dropped, as wherever it stood the prefix after it could not be reused.
BILLING = re.compile(r"x-anthropic-billing-header:.*\n*")

# Known types, though not all are allowed in each place; the model can't read any others.
READABLE = ("text", "thinking", "redacted_thinking", "tool_use", "tool_result")

Content: TypeAlias = str | Annotated[list[Block], Meta(max_length=MAX_MESSAGES)]
Placed: TypeAlias = tuple[str, Block]  # a block with its path, for errors


class InputMessage(msgspec.Struct, frozen=True):
    role: Literal["user", "assistant", "system"]
    content: Content | None


class ToolDefinition(msgspec.Struct, frozen=True):
    name: Name = ""
    description: str | None = None
    input_schema: Any = None
    type: TypeName | None = None
    strict: bool | None = None  # true: enforce the whole schema, or refuse the request
    cache_control: Any = None  # no effect

    @property
    def is_own(self) -> bool:
        """Whether the client declares the tool itself. Others belong to a hosted service, or to
        models trained on them, and are ignored."""
        if self.type:
            return self.type == "custom"
        return bool(self.name) or self.input_schema is not None

    def tool(self, path: str) -> Tool:
        """Raises InvalidRequest."""
        param = f"{path}.input_schema"
        return declared_tool(
            self.name,
            self.description,
            require_not_null(self.input_schema, param),
            name_param=f"{path}.name",
            param=param,
            is_strict=bool(self.strict),
        )


class MessagesToolChoice(msgspec.Struct, frozen=True):
    type: Literal["auto", "any", "tool", "none"]
    name: Name | None = None  # with type tool
    disable_parallel_tool_use: bool | None = None


class OutputFormat(msgspec.Struct, frozen=True, rename={"schema_": "schema"}):
    type: Literal["json_schema"]
    schema_: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True):
    format: OutputFormat | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None

    @property
    def template_kwargs(self) -> dict[str, Json]:
        """Templates know only low, medium and high."""
        effort = "high" if self.effort in ("xhigh", "max") else self.effort
        return {"reasoning_effort": effort} if effort else {}


class PromptFields(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that determine the prompt, and so its number of tokens."""

    model: str
    messages: Annotated[list[InputMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    system: Content = ""
    tools: Annotated[list[ToolDefinition], Meta(max_length=MAX_TOOLS)] = []
    tool_choice: MessagesToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig = OutputConfig()
    output_format: OutputFormat | None = None  # the old name of output_config.format
    cache_control: dict[str, Any] = {}  # no effect: every prefix is cached anyway

    def conversation(self) -> list[Message]:
        """Raises InvalidRequest or UnsupportedParameter with the block's path."""
        return conversation(self.system, self.messages)

    @property
    def left_out(self) -> list[str]:
        """Paths of ignored parts: the billing line, tools that can't be offered, blocks that such
        tools left in the conversation, and images in results."""
        billing = [path for path, block in placed(self.system, "system")[:1] if is_billing(block)]
        tools = [f"tools[{at}]" for at, tool in enumerate(self.tools) if not tool.is_own]
        return [*billing, *tools, *left_out_blocks(self.messages)]

    @property
    def kwarg_paths(self) -> dict[str, str]:
        """Template variables set by the request → their paths in it."""
        paths = {"reasoning_effort": "output_config.effort"} if self.output_config.effort else {}
        return paths | (self.thinking.kwarg_paths if self.thinking else {})

    def answer(self) -> Answer:
        """The form required of the answer. Raises InvalidRequest or UnsupportedParameter."""
        use = tool_use(self.tools, self.tool_choice)
        return answer_of(self.answer_format, use, "format")

    @property
    def answer_format(self) -> AnswerFormat | None:
        for param, wanted in (
            ("output_config.format.schema", self.output_config.format),
            ("output_format.schema", self.output_format),
        ):
            if wanted is not None:
                return AnswerFormat("json", param, wanted.schema_)
        return None

    @property
    def template_kwargs(self) -> dict[str, Json]:
        thinking = self.thinking.template_kwargs if self.thinking else {}
        return {**self.output_config.template_kwargs, **thinking}


def tool_use(tools: Sequence[ToolDefinition], choice: MessagesToolChoice | None) -> ToolUse:
    """Raises InvalidRequest, or UnsupportedParameter if only an ignored tool fits the choice."""
    declared = [tool.tool(f"tools[{at}]") for at, tool in enumerate(tools) if tool.is_own]
    if choice is None:
        return use_of(declared, None, is_parallel=True)
    wanted: str | NamedTool = choice.type
    if choice.type == "any" and tools and not declared:
        raise no_function_to_call()
    if choice.type == "tool":
        name = require_not_null(choice.name, "tool_choice.name")
        if any(tool.name == name and not tool.is_own for tool in tools):
            raise UnsupportedParameter(
                f"tool_choice names {name[:100]}, a tool of Anthropic's own service, which this "
                "server can't run. Choose one that you declare with name and input_schema.",
                "tool_choice",
            )
        wanted = NamedTool(NamedFunction(name))
    return use_of(declared, wanted, is_parallel=not choice.disable_parallel_tool_use)


def conversation(system: Content, messages: Sequence[InputMessage]) -> list[Message]:
    """Merges consecutive messages of one role into one turn. Blocks that the model can't read are
    refused in the last message of the user, and noted in earlier ones: else an image would end the
    conversation for good, as clients send it again with each turn."""
    asked = last_of_user(messages)
    blocks = without_billing(placed(system, "system")) if system else []
    found = [Message(role="system", content=text_of(blocks))] if blocks else []
    for role, turn in itertools.groupby(enumerate(messages), key=lambda pair: pair[1].role):
        blocks = []
        for at, message in turn:
            path = f"messages[{at}].content"
            if not message.content and role != "assistant":
                raise InvalidRequest(f"A {role} message needs content.", path)
            content = placed(message.content, path)
            blocks += map(noted, content) if role == "user" and at != asked else content
        if role == "user":
            found += user_messages(blocks)
        elif role == "assistant":
            found.append(assistant_message(blocks))
        else:
            found.append(Message(role="system", content=text_of(blocks)))
    return found


def left_out_blocks(messages: Sequence[InputMessage]) -> list[str]:
    """Paths of non-text blocks in tool results, assistant messages and earlier messages of the
    user. They are ignored rather than refused: the conversation can go on without them."""
    paths: list[str] = []
    asked = last_of_user(messages)
    for at, message in enumerate(messages):
        for path, block in placed(message.content, f"messages[{at}].content"):
            if message.role == "assistant" or (message.role == "user" and at != asked):
                paths += [] if block.is_known else [path]
            if block.type == "tool_result" and isinstance(block.content, list):
                inner = placed(block.content, f"{path}.content")
                paths += [place for place, part in inner if not part.has_text]
    return paths


def last_of_user(messages: Sequence[InputMessage]) -> int:
    return max((at for at, message in enumerate(messages) if message.role == "user"), default=-1)


def noted(place: Placed) -> Placed:
    """The block, or a note in the place of one that the model can't read."""
    path, block = place
    return place if block.is_known else (path, Block("text", note_for(block.type)))


def is_billing(block: Block) -> bool:
    return isinstance(block.text, str) and bool(BILLING.match(block.text))


def without_billing(blocks: list[Placed]) -> list[Placed]:
    (path, first), *rest = blocks
    if not is_billing(first):
        return blocks
    text = BILLING.sub("", str(first.text), count=1)
    return [(path, msgspec.structs.replace(first, text=text)), *rest] if text else rest


def placed(content: Content | None, path: str) -> list[Placed]:
    if isinstance(content, str) or content is None:
        return [(path, Block("text", content or ""))]
    return [(f"{path}[{at}]", block) for at, block in enumerate(content)]


def user_messages(blocks: Iterable[Placed]) -> list[Message]:
    """Makes each tool result a message of its own and joins the text between them."""
    found: list[Message] = []
    for is_result, run in itertools.groupby(blocks, lambda place: place[1].type == "tool_result"):
        if is_result:
            found += [result_message(path, block) for path, block in run]
        else:
            found.append(Message(role="user", content=text_of(run)))
    return found


def result_message(path: str, block: Block) -> Message:
    if isinstance(block.content, dict):
        raise InvalidRequest(
            "A tool_result's content must be a string or a list of blocks.", f"{path}.content"
        )
    parts = placed(block.content or "", f"{path}.content")
    text = text_of(place for place in map(noted, parts) if place[1].has_text)
    return Message(
        role="tool",
        # Templates have no field for errors.
        content=f"Error: {text}" if block.is_error else text,
        tool_call_id=require_not_null(block.tool_use_id, f"{path}.tool_use_id"),
    )


def assistant_message(blocks: Iterable[Placed]) -> Message:
    """Drops redacted thinking, which only Anthropic can read."""
    texts: list[Placed] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for path, block in blocks:
        if block.type == "thinking":
            thought = require(block.thinking, f"{path}.thinking") or read_carried(block.signature)
            thoughts.append(thought)
        elif block.type == "tool_use":
            calls.append(tool_call(path, block))
        elif block.has_text or (block.type in READABLE and block.type != "redacted_thinking"):
            texts.append((path, block))
    return Message(
        role="assistant",
        content=None if calls and not texts else text_of(texts),
        tool_calls=calls or None,
        reasoning_content="\n".join(filter(None, thoughts)) or None,
    )


def tool_call(path: str, block: Block) -> ToolCall:
    arguments = json_text(require(block.input, f"{path}.input") or {})
    name = require_not_null(block.name, f"{path}.name")
    return ToolCall(FunctionCall(name, arguments), require_not_null(block.id, f"{path}.id"))


def text_of(blocks: Iterable[Placed]) -> str:
    """The text of blocks, joined like the parts of a chat message."""
    texts = []
    for path, block in blocks:
        if not block.has_text:
            raise misplaced(path, block)
        texts.append(block_text(path, block))
    return "\n".join(texts)


def block_text(path: str, block: Block) -> str:
    if block.type in TEXT_TYPES:
        return require(block.text, f"{path}.text") or ""
    title, where, content = block.title, f"{path}.content", block.content
    if isinstance(block.source, DocumentSource):
        where = f"{path}.source"
        content = block.source.data if block.source.type == "text" else block.source.content
    elif block.source:  # a search result's URL
        title = f"{title}\n{block.source}" if title else block.source
    if isinstance(content, dict) or content is None:
        raise InvalidRequest(f"A {block.type} block needs text.", where)
    text = text_of(placed(content, where))
    return f"{title}\n{text}" if title else text


def misplaced(path: str, block: Block) -> ApiError:
    if block.type in READABLE:
        return InvalidRequest(f"A {block.type} block is not allowed here.", path)
    return UnsupportedParameter(
        f"This model takes text only, no block of type {block.type[:100]!r}: send its content as "
        "text.",
        path,
    )


def require(value: T | UnsetType, path: str) -> T:
    """The value, which may be null. Raises InvalidRequest if it is absent."""
    if isinstance(value, UnsetType):
        raise InvalidRequest(f"`{path}` is required.", path)
    return value


def require_not_null(value: T | None, path: str) -> T:
    return require(UNSET if value is None else value, path)
