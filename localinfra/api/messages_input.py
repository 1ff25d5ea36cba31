"""A conversation in Anthropic's words → the words of `chat`: messages, tools, template kwargs.

Shapes and rules: https://platform.claude.com/docs/en/api/messages. Pure; knows no model.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from localinfra.api.structured import MAX_TOOLS, NamedFunction, NamedTool, declared_tool, use_of
from localinfra.chat.answer import Answer, AnswerFormat, Tool, ToolUse
from localinfra.chat.messages import (
    MAX_MESSAGES,
    FunctionCall,
    Json,
    Message,
    ToolCall,
    TypeName,
)
from localinfra.errors import ApiError, InvalidRequest, UnsupportedParameter

T = TypeVar("T")


Name = Annotated[str, Meta(max_length=256)]


class Block(msgspec.Struct, frozen=True):
    """One block of content. Its type says which fields it must have; what else a client puts
    there, such as `cache_control`, is tolerated."""

    type: TypeName
    text: str | None = None  # of text
    thinking: str | None = None  # of thinking
    id: str | None = None  # of tool_use, as are the next two
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None  # of tool_result, as are the next two
    content: "str | Annotated[list[Block], Meta(max_length=MAX_MESSAGES)] | None" = None
    is_error: bool | None = None


# Some have no place in the message at hand; all others can't be read.
READABLE = ("text", "thinking", "redacted_thinking", "tool_use", "tool_result")

Content: TypeAlias = str | Annotated[list[Block], Meta(max_length=MAX_MESSAGES)]
Placed: TypeAlias = tuple[str, Block]  # with its path, for errors


class InputMessage(msgspec.Struct, frozen=True):
    role: Literal["user", "assistant", "system"]
    content: Content


class ToolDefinition(msgspec.Struct, frozen=True):
    name: Name = ""
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    type: TypeName | None = None
    strict: bool | None = None  # true: all of the schema, or an error

    def tool(self, path: str) -> Tool:
        """Raises InvalidRequest, and UnsupportedParameter for what Anthropic brings along."""
        if self.type not in (None, "custom"):
            raise UnsupportedParameter(
                f"The tool {self.name or self.type} of type {self.type!r} comes with Anthropic's "
                "own service. Declare a tool of your own instead, with name, description and "
                "input_schema.",
                f"{path}.type",
            )
        param = f"{path}.input_schema"
        return declared_tool(
            self.name,
            self.description,
            needed(self.input_schema, param),
            name_param=f"{path}.name",
            param=param,
            is_strict=bool(self.strict),
        )


class ToolChoice(msgspec.Struct, frozen=True):
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
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig = OutputConfig()
    output_format: OutputFormat | None = None  # earlier releases' name of output_config.format
    cache_control: dict[str, Any] = {}  # without effect: every prefix is cached as it is

    def conversation(self) -> list[Message]:
        """Raises InvalidRequest and UnsupportedParameter naming the block."""
        return conversation(self.system, self.messages)

    def answer(self) -> Answer:
        """What the answer's form must be. Raises InvalidRequest and UnsupportedParameter."""
        use = tool_use(self.tools, self.tool_choice)
        if use.is_required and self.answer_format:
            raise InvalidRequest(
                "An answer can't be a tool call and have a format; leave one of them out.",
                "tool_choice",
            )
        return Answer(self.answer_format, use)

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


def tool_use(tools: Sequence[ToolDefinition], choice: ToolChoice | None) -> ToolUse:
    declared = [tool.tool(f"tools[{at}]") for at, tool in enumerate(tools)]
    if choice is None:
        return use_of(declared, None, is_parallel=True)
    wanted: str | NamedTool = choice.type
    if choice.type == "tool":
        wanted = NamedTool(NamedFunction(needed(choice.name, "tool_choice.name")))
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


def placed(content: Content, path: str) -> list[Placed]:
    if isinstance(content, str):
        return [(path, Block("text", content))]
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
    text = text_of(placed(block.content or "", f"{path}.content"))
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
            thoughts.append(needed(block.thinking, f"{path}.thinking"))
        elif block.type == "tool_use":
            calls.append(tool_call(path, block))
        elif block.type != "redacted_thinking":
            texts.append((path, block))
    return Message(
        role="assistant",
        content=None if calls and not texts else text_of(texts),
        tool_calls=calls or None,
        reasoning_content="\n".join(thoughts) or None,
    )


def tool_call(path: str, block: Block) -> ToolCall:
    arguments = msgspec.json.encode(needed(block.input, f"{path}.input")).decode()
    name = needed(block.name, f"{path}.name")
    return ToolCall(FunctionCall(name, arguments), needed(block.id, f"{path}.id"))


def text_of(blocks: Iterable[Placed]) -> str:
    """Blocks of text, joined as the parts of a chat message are."""
    texts = []
    for path, block in blocks:
        if block.type != "text":
            raise misplaced(path, block)
        texts.append(needed(block.text, f"{path}.text"))
    return "\n".join(texts)


def misplaced(path: str, block: Block) -> ApiError:
    if block.type in READABLE:
        return InvalidRequest(f"A {block.type} block can't stand here.", path)
    return UnsupportedParameter(
        f"This model takes text only; a block of type {block.type[:100]!r} can't be read. Send "
        "what it holds as text.",
        path,
    )


def needed(value: T | None, path: str) -> T:
    if value is None:
        raise InvalidRequest(f"`{path}` is required.", path)
    return value
