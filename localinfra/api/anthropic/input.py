"""A conversation in Anthropic's words → the words of `chat`: messages, tools, template kwargs.

Shapes and rules: https://platform.claude.com/docs/en/api/messages. Pure; knows no model.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

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
from localinfra.errors import ApiError, InvalidRequest, UnsupportedParameter

T = TypeVar("T")


Name = Annotated[str, Meta(max_length=256)]


class DocumentSource(msgspec.Struct, frozen=True):
    """Of a document. Those of the types text and content have a text."""

    type: TypeName = ""
    data: str | None = None
    content: "Content | None" = None
    media_type: str | None = None  # without effect


class Block(msgspec.Struct, frozen=True):
    """One block of content. Its type says which fields it must have."""

    type: TypeName
    text: str | UnsetType | None = UNSET  # of text
    thinking: str | UnsetType | None = UNSET  # of thinking
    id: str | None = None  # of tool_use, as are the next two
    name: str | None = None
    input: str | dict[str, Any] | UnsetType | None = UNSET
    tool_use_id: str | None = None  # of tool_result, as are the next two
    content: "Content | dict[str, Any] | None" = None
    is_error: bool | None = None
    title: str | None = None  # of document and search_result, as is the next
    source: str | DocumentSource | None = None
    cache_control: Any = None  # without effect: every prefix is cached as it is
    signature: str | None = None  # of thinking: nobody checks it

    @property
    def has_text(self) -> bool:
        if isinstance(self.source, DocumentSource) and self.type == "document":
            return self.source.type in ("text", "content")
        return self.type in TEXT_TYPES or self.type in ("search_result", "compaction")


# Some have no place in the message at hand; all others can't be read.
READABLE = ("text", "thinking", "redacted_thinking", "tool_use", "tool_result")

Content: TypeAlias = str | Annotated[list[Block], Meta(max_length=MAX_MESSAGES)]
Placed: TypeAlias = tuple[str, Block]  # with its path, for errors


class InputMessage(msgspec.Struct, frozen=True):
    role: Literal["user", "assistant", "system"]
    content: Content | None


class ToolDefinition(msgspec.Struct, frozen=True):
    name: Name = ""
    description: str | None = None
    input_schema: Any = None
    type: TypeName | None = None
    strict: bool | None = None  # true: all of the schema, or an error
    cache_control: Any = None  # without effect

    @property
    def is_own(self) -> bool:
        """Declared by the client in full. Others come with Anthropic's service or another, or with
        models that know them: they are left out."""
        if self.type:
            return self.type == "custom"
        return bool(self.name) or self.input_schema is not None

    def tool(self, path: str) -> Tool:
        """Raises InvalidRequest."""
        param = f"{path}.input_schema"
        return declared_tool(
            self.name,
            self.description,
            needed(self.input_schema, param),
            name_param=f"{path}.name",
            param=param,
            is_strict=bool(self.strict),
        )


class MessagesToolChoice(msgspec.Struct, frozen=True):
    type: Literal["auto", "any", "tool", "none"]
    name: Name | None = None  # of tool
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct, frozen=True):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Meta(ge=1)] | None = None
    display: Literal["summarized", "omitted"] | None = None

    @property
    def template_kwargs(self) -> dict[str, Json]:
        """By the names that templates of several families know."""
        thinks = self.type != "disabled"
        budget = {"thinking_budget": self.budget_tokens} if self.budget_tokens and thinks else {}
        return {"enable_thinking": thinks, "thinking": thinks, **budget}


class OutputFormat(msgspec.Struct, frozen=True, rename={"schema_": "schema"}):
    type: Literal["json_schema"]
    schema_: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True):
    format: OutputFormat | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None

    @property
    def template_kwargs(self) -> dict[str, Json]:
        """Templates know three efforts."""
        effort = "high" if self.effort in ("xhigh", "max") else self.effort
        return {"reasoning_effort": effort} if effort else {}


class PromptFields(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that decide about the prompt, and so about its number of tokens."""

    model: str
    messages: Annotated[list[InputMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    system: Content = ""
    tools: Annotated[list[ToolDefinition], Meta(max_length=MAX_TOOLS)] = []
    tool_choice: MessagesToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig = OutputConfig()
    output_format: OutputFormat | None = None  # earlier releases' name of output_config.format
    cache_control: dict[str, Any] = {}  # without effect: every prefix is cached as it is

    def conversation(self) -> list[Message]:
        """Raises InvalidRequest and UnsupportedParameter naming the block."""
        return conversation(self.system, self.messages)

    @property
    def left_out(self) -> list[str]:
        """Paths of what has no effect: tools that can't be offered, what such tools have left in
        the conversation, images in results."""
        tools = [f"tools[{at}]" for at, tool in enumerate(self.tools) if not tool.is_own]
        return [*tools, *left_out_blocks(self.messages)]

    @property
    def kwarg_paths(self) -> dict[str, str]:
        """Where the request sets variables of the template."""
        paths = {"reasoning_effort": "output_config.effort"} if self.output_config.effort else {}
        if self.thinking is None or self.thinking.type == "disabled":
            return paths  # a template that knows no thinking does not think
        names = {name: "thinking" for name in self.thinking.template_kwargs}
        if "thinking_budget" in names:
            names["thinking_budget"] = "thinking.budget_tokens"
        return paths | names

    def answer(self) -> Answer:
        """What the answer's form must be. Raises InvalidRequest and UnsupportedParameter."""
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
    """Raises InvalidRequest, and UnsupportedParameter for a choice that only a tool which was left
    out can meet."""
    declared = [tool.tool(f"tools[{at}]") for at, tool in enumerate(tools) if tool.is_own]
    if choice is None:
        return use_of(declared, None, is_parallel=True)
    wanted: str | NamedTool = choice.type
    if choice.type == "any" and tools and not declared:
        raise no_function_to_call()
    if choice.type == "tool":
        name = needed(choice.name, "tool_choice.name")
        if any(tool.name == name and not tool.is_own for tool in tools):
            raise UnsupportedParameter(
                f"tool_choice names {name[:100]}, a tool that comes with Anthropic's own service. "
                "Name one of your own, with name, description and input_schema.",
                "tool_choice",
            )
        wanted = NamedTool(NamedFunction(name))
    return use_of(declared, wanted, is_parallel=not choice.disable_parallel_tool_use)


def conversation(system: Content, messages: Sequence[InputMessage]) -> list[Message]:
    """Consecutive messages of a role are one turn of it."""
    told = [Message(role="system", content=text_of(placed(system, "system")))] if system else []
    for role, turn in itertools.groupby(enumerate(messages), key=lambda pair: pair[1].role):
        blocks: list[Placed] = []
        for at, message in turn:
            path = f"messages[{at}].content"
            if not message.content and role != "assistant":
                raise InvalidRequest(f"A {role} message needs content.", path)
            blocks += placed(message.content, path)
        if role == "user":
            told += user_messages(blocks)
        elif role == "assistant":
            told.append(assistant_message(blocks))
        else:
            told.append(Message(role="system", content=text_of(blocks)))
    return told


def left_out_blocks(messages: Sequence[InputMessage]) -> list[str]:
    """In what a tool has given, and in what the assistant said, whatever is no text: the model
    has asked for it, or had it from a tool that is not here, and can go on without."""
    paths: list[str] = []
    for at, message in enumerate(messages):
        for path, block in placed(message.content, f"messages[{at}].content"):
            if message.role == "assistant":
                paths += [] if block.has_text or block.type in READABLE else [path]
            elif block.type == "tool_result" and isinstance(block.content, list):
                inner = placed(block.content, f"{path}.content")
                paths += [place for place, part in inner if not part.has_text]
    return paths


def placed(content: Content | None, path: str) -> list[Placed]:
    if isinstance(content, str) or content is None:
        return [(path, Block("text", content or ""))]
    return [(f"{path}[{at}]", block) for at, block in enumerate(content)]


def user_messages(blocks: Iterable[Placed]) -> list[Message]:
    """Results of calls are messages of their own; texts between them are joined."""
    told: list[Message] = []
    for is_result, run in itertools.groupby(blocks, lambda place: place[1].type == "tool_result"):
        if is_result:
            told += [result_message(path, block) for path, block in run]
        else:
            told.append(Message(role="user", content=text_of(run)))
    return told


def result_message(path: str, block: Block) -> Message:
    if isinstance(block.content, dict):
        raise InvalidRequest("A result's content is a text or blocks.", f"{path}.content")
    parts = placed(block.content or "", f"{path}.content")
    text = text_of(place for place in parts if place[1].has_text)
    return Message(
        role="tool",
        # Templates have no other place for it.
        content=f"Error: {text}" if block.is_error else text,
        tool_call_id=needed(block.tool_use_id, f"{path}.tool_use_id"),
    )


def assistant_message(blocks: Iterable[Placed]) -> Message:
    """Redacted thinking is left out: only Anthropic can read it."""
    texts: list[Placed] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for path, block in blocks:
        if block.type == "thinking":
            thoughts.append(given(block.thinking, f"{path}.thinking") or "")
        elif block.type == "tool_use":
            calls.append(tool_call(path, block))
        elif block.has_text or (block.type in READABLE and block.type != "redacted_thinking"):
            texts.append((path, block))
    return Message(
        role="assistant",
        content=None if calls and not texts else text_of(texts),
        tool_calls=calls or None,
        reasoning_content="\n".join(thoughts) or None,
    )


def tool_call(path: str, block: Block) -> ToolCall:
    arguments = json_text(given(block.input, f"{path}.input") or {})
    name = needed(block.name, f"{path}.name")
    return ToolCall(FunctionCall(name, arguments), needed(block.id, f"{path}.id"))


def text_of(blocks: Iterable[Placed]) -> str:
    """Blocks of text, joined as the parts of a chat message are."""
    texts = []
    for path, block in blocks:
        if not block.has_text:
            raise misplaced(path, block)
        texts.append(block_text(path, block))
    return "\n".join(texts)


def block_text(path: str, block: Block) -> str:
    if block.type in TEXT_TYPES:
        return given(block.text, f"{path}.text") or ""
    title, where, content = block.title, f"{path}.content", block.content
    if isinstance(block.source, DocumentSource):
        where = f"{path}.source"
        content = block.source.data if block.source.type == "text" else block.source.content
    elif block.source:  # where a search found it
        title = f"{title}\n{block.source}" if title else block.source
    if isinstance(content, dict) or content is None:
        raise InvalidRequest(f"A {block.type} block needs a text.", where)
    text = text_of(placed(content, where))
    return f"{title}\n{text}" if title else text


def misplaced(path: str, block: Block) -> ApiError:
    if block.type in READABLE:
        return InvalidRequest(f"A {block.type} block can't stand here.", path)
    return UnsupportedParameter(
        f"This model takes text only; a block of type {block.type[:100]!r} can't be read. Send "
        "what it holds as text.",
        path,
    )


def given(value: T | UnsetType, path: str) -> T:
    """Null where the client has written that."""
    if isinstance(value, UnsetType):
        raise InvalidRequest(f"`{path}` is required.", path)
    return value


def needed(value: T | None, path: str) -> T:
    return given(UNSET if value is None else value, path)
