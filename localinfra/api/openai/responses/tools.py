"""`tools` and `tool_choice` of a Responses request → functions that a model may call.

Tools that OpenAI's own service runs (web search, code interpreter, MCP, ...) and tools of other
kinds than functions can't be offered here: they are left out and named, unless a call of one is
required. A namespace's functions are offered by flat names, and called by their own.
https://platform.openai.com/docs/api-reference/responses/create
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from localinfra.api.generation.tools import (
    MAX_TOOLS,
    AllowedTools,
    FunctionDefinition,
    NamedFunction,
    NamedTool,
    SentTools,
    ToolChoice,
    ToolType,
    no_function_to_call,
    read_function,
    too_many_tools,
    use_of,
)
from localinfra.api.http.body import NULL, decode_within
from localinfra.api.openai.responses.items import flat_name
from localinfra.chat.answer import Tool, ToolUse
from localinfra.chat.messages import TypeName
from localinfra.errors import InvalidRequest


class FunctionTool(FunctionDefinition, frozen=True, kw_only=True):
    """In the response, in whatever form it came."""

    type: Literal["function"] = "function"


class SentNamespace(msgspec.Struct, frozen=True, kw_only=True):
    type: TypeName
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    description: str = ""
    tools: SentTools


class Namespace(msgspec.Struct, frozen=True, kw_only=True):
    """Its description reaches no model: each function has its own."""

    type: Literal["namespace"] = "namespace"
    name: str
    description: str
    tools: list[FunctionTool]


class ToolName(msgspec.Struct, frozen=True):
    """What a client calls a function."""

    name: str
    namespace: str | None = None


class Offered(msgspec.Struct, frozen=True):
    """What of a request's tools a model may call."""

    tools: list[Tool]
    names: dict[str, ToolName]  # by the flat names that the model knows
    shown: list[FunctionTool | Namespace]  # for the response
    left_out: list[str]  # paths
    unknown: list[str]  # paths of names that nobody knows

    def known_as(self, name: str, namespace: str | None) -> str:
        """What the model knows the tool as. Where no namespace is said, whichever has it alone."""
        flat = flat_name(name, namespace)
        own = [known for known, told in self.names.items() if told.name == name]
        return own[0] if flat not in self.names and not namespace and len(own) == 1 else flat


def offered(sent: Sequence[msgspec.Raw]) -> Offered:
    """Raises InvalidRequest naming the path of what is wrong with a function."""
    found = Offered([], {}, [], [], [])

    def functions(
        tools: Sequence[msgspec.Raw], path: str, namespace: str | None = None
    ) -> Iterator[FunctionTool]:
        for at, raw in enumerate(tools):
            if raw == NULL:
                continue
            here = f"{path}[{at}]"
            if namespace is None and (group := read_namespace(here, raw, found.unknown)):
                inner = list(functions(group.tools, f"{here}.tools", group.name))
                found.shown.append(
                    Namespace(name=group.name, description=group.description, tools=inner)
                )
            elif declared := read_function(here, raw, found.unknown, "name"):
                function = declared.function
                tool = declared.tool(flat_name(function.name, namespace))
                if len(found.tools) == MAX_TOOLS:
                    raise too_many_tools()
                found.tools.append(tool)
                found.names[tool.name] = ToolName(function.name, namespace)
                yield FunctionTool(**msgspec.structs.asdict(function))
            else:
                found.left_out.append(here)

    for function in functions(sent, "tools"):
        found.shown.append(function)
    return found


def read_namespace(path: str, raw: msgspec.Raw, unknown: list[str]) -> SentNamespace | None:
    """None for another tool, and for one that is not whole: it has nothing to offer."""
    if decode_within(path, raw, ToolType, []).type != "namespace":
        return None
    try:
        return decode_within(path, raw, SentNamespace, unknown)
    except InvalidRequest:
        return None


def tool_use(found: Offered, choice: str | ToolChoice, is_parallel: bool) -> ToolUse:
    """Raises InvalidRequest, and UnsupportedParameter for a choice that only a tool which was left
    out can meet."""
    wanted = choice_of(found, choice)
    if wanted == "required" and not found.tools and found.left_out:
        raise no_function_to_call()
    return use_of(found.tools, wanted, is_parallel)


def choice_of(found: Offered, choice: str | ToolChoice) -> str | NamedTool | AllowedTools | None:
    if isinstance(choice, str):
        return None if choice in ("auto", "") else choice  # none where there are no tools
    if choice.is_empty:
        return None
    if choice.type == "allowed_tools":
        return allowed(found, choice)
    wanted = choice.choice()
    if not isinstance(wanted, NamedTool):
        return wanted
    return NamedTool(NamedFunction(found.known_as(wanted.function.name, choice.namespace)))


def allowed(found: Offered, choice: ToolChoice) -> str | AllowedTools:
    """The functions among the allowed tools; those that were left out can't be called anyway."""
    asked = choice.allowed
    functions = [tool for tool in asked.tools if tool.type in ("", "function")]
    if asked.tools and not functions:
        if asked.mode == "required":
            raise no_function_to_call()
        return "none"
    flat = ToolChoice(type=choice.type, mode=asked.mode, tools=functions)
    chosen = flat.choice()
    assert isinstance(chosen, AllowedTools)
    names = [found.known_as(tool.function_name or "", tool.namespace) for tool in functions]
    return AllowedTools(names, chosen.mode)
