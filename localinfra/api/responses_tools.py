"""`tools` and `tool_choice` of a Responses request → functions that a model may call.

Tools that OpenAI's own service runs (web search, code interpreter, MCP, ...) and tools of other
kinds than functions can't be offered here: they are left out and named, unless a call of one is
required. A namespace's functions are offered by flat names, and called by their own.
https://platform.openai.com/docs/api-reference/responses/create
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from localinfra.api.body import decode_within
from localinfra.api.responses_items import flat_name
from localinfra.api.structured import (
    NamedFunction,
    NamedTool,
    declared_tool,
    no_function_to_call,
    use_of,
)
from localinfra.chat.answer import Tool, ToolUse
from localinfra.errors import InvalidRequest, UnsupportedParameter


class Typed(msgspec.Struct, frozen=True):
    type: str


class FunctionTool(msgspec.Struct, frozen=True, kw_only=True):
    type: Literal["function"] = "function"
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None  # always

    def tool(self, path: str, namespace: str | None) -> Tool:
        """Raises InvalidRequest."""
        return declared_tool(
            flat_name(self.name, namespace),
            self.description,
            self.parameters,
            name_param=f"{path}.name",
            param=f"{path}.parameters",
        )


class SentNamespace(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    description: str = ""
    tools: list[msgspec.Raw]


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

    def find(self, wanted: ToolName) -> Tool | None:
        """The tool of that name; where it says no namespace, of whichever has it alone."""
        flat = [
            tool for tool in self.tools if tool.name == flat_name(wanted.name, wanted.namespace)
        ]
        own = [tool for tool in self.tools if self.names[tool.name].name == wanted.name]
        found = flat or ([] if wanted.namespace else own)
        return found[0] if len(found) == 1 else None


def offered(sent: Sequence[msgspec.Raw]) -> Offered:
    """Raises InvalidRequest naming the path of what is wrong with a function."""
    found = Offered([], {}, [], [])

    def functions(
        tools: Sequence[msgspec.Raw], path: str, namespace: str | None = None
    ) -> Iterator[FunctionTool]:
        for at, raw in enumerate(tools):
            here = f"{path}[{at}]"
            kind = decode_within(here, raw, Typed).type
            if kind == "function":
                function = decode_within(here, raw, FunctionTool)
                tool = function.tool(here, namespace)
                found.tools.append(tool)
                found.names[tool.name] = ToolName(function.name, namespace)
                yield function
            elif kind == "namespace" and namespace is None:
                group = decode_within(here, raw, SentNamespace)
                inner = list(functions(group.tools, f"{here}.tools", group.name))
                found.shown.append(
                    Namespace(name=group.name, description=group.description, tools=inner)
                )
            else:
                found.left_out.append(here)

    for function in functions(sent, "tools"):
        found.shown.append(function)
    return found


class ToolChoice(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str
    name: str | None = None  # of a function
    namespace: str | None = None
    mode: Literal["auto", "required"] | None = None  # of allowed_tools, as is the next
    tools: list[dict[str, Any]] | None = None


def tool_use(found: Offered, choice: str | ToolChoice, is_parallel: bool) -> ToolUse:
    """Raises InvalidRequest, and UnsupportedParameter for a choice that only a tool which was left
    out can meet."""
    if isinstance(choice, str):
        if choice in ("auto", ""):
            return use_of(found.tools, None, is_parallel)  # none where there are no tools
        if choice == "required" and not found.tools and found.left_out:
            raise no_function_to_call()
        if choice in ("none", "required"):
            return use_of(found.tools, choice, is_parallel)
    elif choice.type == "allowed_tools":
        return allowed(found, choice, is_parallel)
    elif choice.type != "function":
        raise UnsupportedParameter(
            f"tool_choice can't be of type {choice.type[:100]!r}: such a tool can't run here. Name "
            "a function.",
            "tool_choice.type",
        )
    elif choice.name:
        wanted = ToolName(choice.name, choice.namespace)
        tool = found.find(wanted)
        named = tool.name if tool else flat_name(wanted.name, wanted.namespace)
        return use_of(found.tools, NamedTool(NamedFunction(named)), is_parallel)
    raise InvalidRequest(
        'tool_choice must be none, auto, required or {"type": "function", "name": ...}.',
        "tool_choice",
    )


def allowed(found: Offered, choice: ToolChoice, is_parallel: bool) -> ToolUse:
    """The functions among the allowed tools; those that were left out can't be called anyway."""
    tools: list[Tool] = []
    for at, sent in enumerate(choice.tools or ()):
        if sent.get("type") != "function":
            continue
        name = ToolName(str(sent.get("name")), str(sent.get("namespace") or "") or None)
        tool = found.find(name)
        if tool is None:
            raise InvalidRequest(
                f"tool_choice allows {name.name[:100]}, which is not among the tools.",
                f"tool_choice.tools[{at}]",
            )
        if tool not in tools:
            tools.append(tool)
    if not tools and choice.mode == "required":
        raise no_function_to_call()
    return use_of(tools, choice.mode if tools and choice.mode else "none", is_parallel)
