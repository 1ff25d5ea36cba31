"""`tools` and `tool_choice` of a Responses request → functions that a model may call.

Tools run by OpenAI's service (web search, code interpreter, MCP, ...) and tools that are not
functions can't be offered here: they are reported as ignored, or refused if a call of one is
required. Functions in a namespace get flat names for the model; the client sees their own.
https://platform.openai.com/docs/api-reference/responses/create
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from localinfra.api.generation.tools import (
    MAX_TOOLS,
    AllowedTools,
    FunctionDefinition,
    NamedFunction,
    NamedTool,
    SentFunction,
    SentTools,
    ToolChoice,
    ToolType,
    no_function_to_call,
    read_function,
    too_many_tools,
    use_of,
)
from localinfra.api.http.body import decode_within
from localinfra.api.http.held import holding
from localinfra.api.openai.responses.items import flat_name
from localinfra.chat.answer import Tool, ToolUse
from localinfra.chat.messages import TypeName
from localinfra.errors import InvalidRequest


class FunctionTool(FunctionDefinition, frozen=True, kw_only=True):
    """A function in the response, whatever form it was sent in."""

    type: Literal["function"] = "function"


class SentNamespace(msgspec.Struct, frozen=True, kw_only=True):
    type: TypeName
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    description: str = ""
    tools: SentTools


SentGroups = Annotated[
    list[Annotated[Any, holding(SentFunction, SentNamespace)]], Meta(max_length=MAX_TOOLS)
]


class Namespace(msgspec.Struct, frozen=True, kw_only=True):
    """A namespace in the response. Its description does not reach the model."""

    type: Literal["namespace"] = "namespace"
    name: str
    description: str
    tools: list[FunctionTool]


class ToolName(msgspec.Struct, frozen=True):
    """A client's name of a function."""

    name: str
    namespace: str | None = None


class Offered(msgspec.Struct, frozen=True):
    """A request's tools: those that the model may call, and what was ignored."""

    tools: list[Tool]
    names: dict[str, ToolName]  # by the flat names that the model uses
    shown: list[FunctionTool | Namespace]  # for the response
    left_out: list[str]  # paths of the tools ignored
    unknown: list[str]  # paths of unknown names

    def known_as(self, name: str, namespace: str | None) -> str:
        """The tool's name for the model. Without a namespace, finds the only one that has it."""
        flat = flat_name(name, namespace)
        own = [known for known, client in self.names.items() if client.name == name]
        return own[0] if flat not in self.names and not namespace and len(own) == 1 else flat


def read_tools(sent: Sequence[Any]) -> Offered:
    """Raises InvalidRequest with the path of the mistake in a function."""
    found = Offered([], {}, [], [], [])
    for function in _functions(found, sent, "tools"):
        found.shown.append(function)
    return found


def _functions(
    found: Offered, tools: Sequence[Any], path: str, namespace: str | None = None
) -> Iterator[FunctionTool]:
    """Those at the top or in a namespace. Adds them to what was found, and namespaces."""
    for at, one in enumerate(tools):
        if one is None:
            continue
        here = f"{path}[{at}]"
        if namespace is None and (group := read_namespace(here, one, found.unknown)):
            inner = list(_functions(found, group.tools, f"{here}.tools", group.name))
            found.shown.append(
                Namespace(name=group.name, description=group.description, tools=inner)
            )
        elif declared := read_function(here, one, found.unknown, "name"):
            function = declared.function
            tool = declared.tool(flat_name(function.name, namespace))
            if len(found.tools) == MAX_TOOLS:
                raise too_many_tools()
            found.tools.append(tool)
            found.names[tool.name] = ToolName(function.name, namespace)
            yield FunctionTool(**msgspec.structs.asdict(function))
        else:
            found.left_out.append(here)


def read_namespace(path: str, sent: Any, unknown: list[str]) -> SentNamespace | None:
    """None for other tools, and for an invalid namespace, which is ignored."""
    if decode_within(path, sent, ToolType, []).type != "namespace":
        return None
    try:
        return decode_within(path, sent, SentNamespace, unknown)
    except InvalidRequest:
        return None


def tool_use(found: Offered, choice: str | ToolChoice, is_parallel: bool) -> ToolUse:
    """Raises InvalidRequest, or UnsupportedParameter if only an ignored tool fits the choice."""
    wanted = choice_of(found, choice)
    if wanted == "required" and not found.tools and found.left_out:
        raise no_function_to_call()
    return use_of(found.tools, wanted, is_parallel)


def choice_of(found: Offered, choice: str | ToolChoice) -> str | NamedTool | AllowedTools | None:
    if isinstance(choice, str):
        return None if choice in ("auto", "") else choice  # None: "none" if there are no tools
    if choice.is_empty:
        return None
    if choice.type == "allowed_tools":
        return allowed_tools(found, choice)
    wanted = choice.choice()
    if not isinstance(wanted, NamedTool):
        return wanted
    return NamedTool(NamedFunction(found.known_as(wanted.function.name, choice.namespace)))


def allowed_tools(found: Offered, choice: ToolChoice) -> str | AllowedTools:
    """The functions among the allowed tools; the others can't be called anyway."""
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
