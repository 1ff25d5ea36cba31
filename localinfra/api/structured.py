"""`response_format`, `tools` and `tool_choice` as clients send them → `chat.answer`'s values."""

import re
from collections import Counter
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from localinfra.chat.answer import ANY_OBJECT, AnswerFormat, Tool, ToolUse
from localinfra.chat.messages import Json, TypeName
from localinfra.errors import InvalidRequest, UnsupportedParameter

MAX_TOOLS = 128
NAME = re.compile(r"[\w.:/-]{1,128}", re.ASCII)  # OpenAI's, and what MCP servers put in names


class JsonSchemaFormat(msgspec.Struct, frozen=True, rename={"schema_": "schema"}):
    name: str | None = None
    schema_: dict[str, Any] | None = None
    strict: bool | None = None  # always
    description: str | None = None


class ResponseFormat(msgspec.Struct, frozen=True, rename={"schema_": "schema"}):
    """OpenAI's, and DeepInfra's `regex` and `grammar`."""

    type: TypeName
    json_schema: JsonSchemaFormat | None = None
    schema_: dict[str, Any] | None = None  # beside json_object, as llama.cpp's server takes it
    regex: str | None = None
    pattern: str | None = None
    grammar: str | None = None

    def answer_format(self) -> AnswerFormat | None:
        """None where any text will do. Raises InvalidRequest and UnsupportedParameter."""
        param = "response_format"
        if self.type == "text":
            return None
        if self.type in ("json", "json_object"):
            if self.schema_ is None:
                return AnswerFormat("json", param, ANY_OBJECT)
            return AnswerFormat("json", f"{param}.schema", self.schema_)
        if self.type == "json_schema":
            if self.json_schema is not None and self.json_schema.schema_ is not None:
                return AnswerFormat("json", f"{param}.json_schema.schema", self.json_schema.schema_)
            raise missing(f"{param}.json_schema.schema", "the JSON Schema")
        if self.type == "regex":
            regex = self.pattern if self.regex is None else self.regex
            if regex is None:
                raise missing(f"{param}.regex", "the regular expression")
            return AnswerFormat("regex", f"{param}.regex", text=regex)
        if self.type == "grammar":
            if self.grammar is None:
                raise missing(f"{param}.grammar", "a grammar in Lark or GBNF")
            return AnswerFormat("lark", f"{param}.grammar", text=self.grammar)
        raise UnsupportedParameter(
            f"response_format can't be {self.type!r}: use text, json_object, json_schema, regex or "
            "grammar.",
            f"{param}.type",
        )


def missing(path: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{path} is missing: put {what} there.", path)


class FunctionDefinition(msgspec.Struct, frozen=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None  # always


class ToolDefinition(msgspec.Struct, frozen=True):
    function: FunctionDefinition
    type: Literal["function"] = "function"

    def tool(self, path: str) -> Tool:
        function = self.function
        return declared_tool(
            function.name,
            function.description,
            function.parameters,
            name_param=f"{path}.function.name",
            param=f"{path}.function.parameters",
        )


def declared_tool(
    name: str,
    description: str | None,
    parameters: dict[str, Json] | None,
    *,
    name_param: str,
    param: str,
) -> Tool:
    """A function as templates know it, which is OpenAI's form. Raises InvalidRequest."""
    if not NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name[:200]!r} can't be a function's name: use 1 to 128 letters, digits, and the "
            "characters _ - . : /",
            name_param,
        )
    definition: dict[str, Json] = {
        "type": "function",
        "function": {
            "name": name,
            "description": description or "",
            "parameters": parameters or {"type": "object", "properties": {}},
        },
    }
    return Tool(name, definition, parameters, param)


class NamedFunction(msgspec.Struct, frozen=True):
    name: Annotated[str, Meta(max_length=256)]


class NamedTool(msgspec.Struct, frozen=True):
    function: NamedFunction
    type: Literal["function"] = "function"


def tool_use(
    tools: list[ToolDefinition], choice: str | NamedTool | None, is_parallel: bool
) -> ToolUse:
    """Raises InvalidRequest and UnsupportedParameter."""
    declared = [tool.tool(f"tools[{at}]") for at, tool in enumerate(tools)]
    return use_of(declared, choice, is_parallel)


def use_of(declared: list[Tool], choice: str | NamedTool | None, is_parallel: bool) -> ToolUse:
    """Raises InvalidRequest."""
    if len(declared) > MAX_TOOLS:
        raise InvalidRequest(f"At most {MAX_TOOLS} tools can be given.", "tools")
    names = Counter(tool.name for tool in declared)
    if twice := next((name for name, count in names.items() if count > 1), None):
        raise InvalidRequest(f"Two tools are called {twice}.", "tools")
    if isinstance(choice, NamedTool):
        named = [tool for tool in declared if tool.name == choice.function.name]
        if not named:
            raise InvalidRequest(
                f"tool_choice names {choice.function.name}, which is not among the tools"
                f"{': ' + ', '.join(names) if names else ''}.",
                "tool_choice",
            )
        return ToolUse(named, is_required=True, is_named=True, is_parallel=False)
    if choice is None:
        choice = "auto" if declared else "none"
    if choice not in ("none", "auto", "required", "any"):  # "any" is what LangChain says
        raise InvalidRequest(
            f"tool_choice can't be {choice[:100]!r}: use none, auto, required or "
            '{"type": "function", "function": {"name": ...}}.',
            "tool_choice",
        )
    is_required = choice in ("required", "any")
    if is_required and not declared:
        raise InvalidRequest("tool_choice requires a call, but there are no tools.", "tool_choice")
    if choice == "none":
        return ToolUse()
    return ToolUse(declared, is_required=is_required, is_parallel=is_parallel)
