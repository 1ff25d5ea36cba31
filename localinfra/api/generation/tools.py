"""`tools` and `tool_choice` as clients send them → `chat.answer`'s values."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from localinfra.api.http.body import NULL, decode_within, missing
from localinfra.chance import random_hex
from localinfra.chat.answer import Answer, AnswerFormat, Tool, ToolUse
from localinfra.chat.messages import Json, TypeName
from localinfra.chat.schema.keywords import as_map
from localinfra.chat.schema.prepared import MAX_PARTS
from localinfra.errors import InvalidRequest, UnsupportedParameter

MAX_TOOLS = 128
NAME = re.compile(r"[\w.:/-]{1,128}", re.ASCII)  # OpenAI's, and what MCP servers put in names


class FunctionDefinition(msgspec.Struct, frozen=True):
    name: str = ""
    description: str | None = None
    parameters: Any = None  # a schema; whatever else it is does not refuse the request
    strict: bool | None = None  # true: all of the parameters' schema, or an error


class ToolType(msgspec.Struct, frozen=True):
    """What says whether a tool is a function. Of others nothing can be offered here: those are
    left out, whatever else they say."""

    type: TypeName | None = None
    function: msgspec.Raw = NULL
    name: msgspec.Raw = NULL
    parameters: msgspec.Raw = NULL
    input_schema: msgspec.Raw = NULL

    @property
    def is_function(self) -> bool:
        if self.type == "custom":  # Anthropic's word for functions; OpenAI's for something else
            return self.input_schema != NULL
        if self.type:
            return self.type == "function"
        # Google's tools are told by their only field: {"google_search": {}}.
        told = (self.function, self.name, self.parameters, self.input_schema)
        return any(field != NULL for field in told)


class SentFunction(msgspec.Struct, frozen=True):
    """In the form of OpenAI's chat API, within `function`; flat, as in its Responses API; or
    flat with `input_schema`, as in Anthropic's."""

    function: FunctionDefinition | None = None
    type: TypeName | None = None
    name: str | None = None
    description: str | None = None
    parameters: Any = None
    input_schema: Any = None
    strict: bool | None = None

    def declared(self, path: str, usual: str) -> "Declared":
        """Raises InvalidRequest."""
        if self.function is not None and (self.function.name or self.name is None):
            inner, strict = f"{path}.function", self.function.strict
            strict = self.strict if strict is None else strict  # some write it beside the function
            function = msgspec.structs.replace(self.function, strict=strict)
            return Declared(function, f"{inner}.name", f"{inner}.parameters")
        if self.name is None:
            raise missing(f"{path}.{usual}", "the function's name")
        schema, field = self.parameters, "parameters"
        if schema is None and self.input_schema is not None:
            schema, field = self.input_schema, "input_schema"
        function = FunctionDefinition(self.name, self.description, schema, self.strict)
        return Declared(function, f"{path}.name", f"{path}.{field}")


class Declared(msgspec.Struct, frozen=True):
    """A function, and where the request has its name and its parameters."""

    function: FunctionDefinition
    name_param: str
    param: str

    def tool(self, known_as: str | None = None) -> Tool:
        """`known_as`: what the model calls it. Raises InvalidRequest."""
        return declared_tool(
            known_as or self.function.name,
            self.function.description,
            self.function.parameters,
            name_param=self.name_param,
            param=self.param,
            is_strict=bool(self.function.strict),
        )


def read_function(
    path: str, raw: msgspec.Raw, unknown: list[str], usual: str = "function"
) -> Declared | None:
    """None where it is a tool of another kind; `usual` is the field that this API has the name in.
    Adds the paths of names that nobody knows. Raises InvalidRequest."""
    if not decode_within(path, raw, ToolType, []).is_function:
        return None
    return decode_within(path, raw, SentFunction, unknown).declared(path, usual)


SentTools = Annotated[list[msgspec.Raw], Meta(max_length=MAX_TOOLS)]


class Tools(msgspec.Struct, frozen=True):
    """What of a request's tools a model may call."""

    declared: list[Tool]
    left_out: list[str]  # paths of the others
    unknown: list[str]  # paths of names that nobody knows


def read_tools(sent: Sequence[msgspec.Raw]) -> Tools:
    """Raises InvalidRequest naming the path of what is wrong with a function."""
    found = Tools([], [], [])
    for at, raw in enumerate(sent):
        if raw == NULL:
            continue
        path = f"tools[{at}]"
        function = read_function(path, raw, found.unknown)
        if function is None:
            found.left_out.append(path)
        else:
            found.declared.append(function.tool())
    return found


def declared_tool(
    name: str,
    description: str | None,
    parameters: Json,
    *,
    name_param: str,
    param: str,
    is_strict: bool = False,
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
            "parameters": for_templates(parameters) or {"type": "object", "properties": {}},
        },
    }
    is_schema = isinstance(parameters, dict) or parameters in (None, [])  # PHP's empty object
    if is_strict and not is_schema:
        raise InvalidRequest(f"{param} must be a JSON Schema: an object.", param)
    known = parameters if isinstance(parameters, dict) else None
    return Tool(name, definition, known, param, is_strict, is_schema)


def for_templates(parameters: Json) -> dict[str, Json]:
    """The same, where templates that walk through the properties find an object for each."""
    if not isinstance(parameters, dict):
        return {}
    if "properties" not in parameters:
        return parameters
    properties = as_map(parameters["properties"])
    if len(properties) > MAX_PARTS:
        return parameters  # the event loop runs this
    readable: dict[str, Json] = {
        name: part if isinstance(part, dict | bool) else {} for name, part in properties.items()
    }
    return {**parameters, "properties": readable}


FunctionName = Annotated[str, Meta(max_length=256)]


class NamedFunction(msgspec.Struct, frozen=True):
    name: FunctionName


class NamedTool(msgspec.Struct, frozen=True):
    function: NamedFunction
    type: Literal["function"] = "function"


class AllowedTools(msgspec.Struct, frozen=True):
    """The model is told of all tools, and may call these; with `required` it must."""

    names: list[str]
    mode: str  # auto or required


class AllowedChoice(msgspec.Struct, frozen=True):
    """OpenAI's `allowed_tools`, within a `ToolChoice` or flat as in the Responses API."""

    mode: TypeName | None = None  # auto
    tools: Annotated[list["ToolChoice"], Meta(max_length=MAX_TOOLS)] = []


class ToolChoice(msgspec.Struct, frozen=True, omit_defaults=True):
    """`tool_choice` where it is an object, in all forms that OpenAI's APIs know."""

    type: TypeName = ""  # a function's, where it is left out
    function: NamedFunction | None = None  # of chat
    name: FunctionName | None = None  # of the Responses API, as is the next
    namespace: FunctionName | None = None
    allowed_tools: AllowedChoice | None = None  # of chat
    mode: TypeName | None = None  # of the Responses API, as is the next
    tools: Annotated[list["ToolChoice"], Meta(max_length=MAX_TOOLS)] | None = None

    @property
    def is_empty(self) -> bool:
        """As good as none given."""
        return self == ToolChoice()

    @property
    def function_name(self) -> FunctionName | None:
        return self.function.name if self.function else self.name

    @property
    def allowed(self) -> AllowedChoice:
        """Of the type `allowed_tools`."""
        return self.allowed_tools or AllowedChoice(self.mode, self.tools or [])

    def choice(self, path: str = "tool_choice") -> str | NamedTool | AllowedTools:
        """Raises InvalidRequest and UnsupportedParameter."""
        if self.type in ("none", "auto", "required", "any"):
            return self.type
        if self.type == "allowed_tools":
            return self._allowed(path)
        if self.type not in ("", "function", "tool"):
            raise UnsupportedParameter(
                f"tool_choice can't be of type {self.type[:100]!r}: this server runs no tools "
                "itself. Name a function.",
                f"{path}.type",
            )
        name = self.function_name
        if name is None:
            raise InvalidRequest(
                f'{path} names none: use {{"type": "function", "function": {{"name": ...}}}}.',
                path,
            )
        return NamedTool(NamedFunction(name))

    def _allowed(self, path: str) -> AllowedTools:
        allowed, within = self.allowed, f"{path}.allowed_tools" if self.allowed_tools else path
        mode = allowed.mode or "auto"
        if mode not in ("auto", "required"):
            raise InvalidRequest(
                f"{within}.mode can't be {mode[:100]!r}: use auto or required.",
                f"{within}.mode",
            )
        if not allowed.tools:
            raise missing(f"{within}.tools", "at least one function")
        names = []
        for at, tool in enumerate(allowed.tools):
            named = tool.choice(f"{within}.tools[{at}]")
            if not isinstance(named, NamedTool):
                raise InvalidRequest("Only functions can be allowed.", f"{within}.tools[{at}].type")
            names.append(named.function.name)
        return AllowedTools(names, mode)


def tool_use(tools: Tools, choice: str | ToolChoice | None, is_parallel: bool) -> ToolUse:
    """Raises InvalidRequest and UnsupportedParameter."""
    wanted: str | NamedTool | AllowedTools | None = None
    if isinstance(choice, str):
        wanted = choice
    elif choice is not None and not choice.is_empty:
        wanted = choice.choice()
    if tools.left_out and not tools.declared and wanted in ("required", "any"):
        raise no_function_to_call()
    return use_of(tools.declared, wanted, is_parallel)


def no_function_to_call() -> UnsupportedParameter:
    return UnsupportedParameter(
        "tool_choice requires a call, but none of these tools can run here: declare functions, "
        "and run them yourself.",
        "tool_choice",
    )


def answer_of(wanted: AnswerFormat | None, use: ToolUse, format_name: str) -> Answer:
    """What an answer must be. Raises InvalidRequest where it can't be both: `format_name` is where
    the request has its format."""
    if use.is_required and wanted:
        raise InvalidRequest(
            f"An answer can't be a tool call and have a {format_name}; leave one of them out.",
            "tool_choice",
        )
    return Answer(wanted, use)


def call_id() -> str:
    """OpenAI's form of it."""
    return f"call_{random_hex(24)}"


def too_many_tools() -> InvalidRequest:
    return InvalidRequest(f"At most {MAX_TOOLS} tools can be given.", "tools")


def use_of(
    declared: list[Tool], choice: str | NamedTool | AllowedTools | None, is_parallel: bool
) -> ToolUse:
    """Raises InvalidRequest."""
    if len(declared) > MAX_TOOLS:
        raise too_many_tools()
    names = Counter(tool.name for tool in declared)
    if twice := next((name for name, count in names.items() if count > 1), None):
        raise InvalidRequest(f"Two tools are called {twice}.", "tools")
    if isinstance(choice, AllowedTools):
        for name in choice.names:
            check_declared(name, names)
        allowed, is_required = frozenset(choice.names), choice.mode == "required"
        return ToolUse(declared, allowed, is_required=is_required, is_parallel=is_parallel)
    if isinstance(choice, NamedTool):
        check_declared(choice.function.name, names)
        named = [tool for tool in declared if tool.name == choice.function.name]
        return ToolUse(named, is_required=True, is_named=True, is_parallel=False)
    if choice is None:
        choice = "auto" if declared else "none"
    if choice not in ("none", "auto", "required", "any"):  # "any" is what LangChain says
        raise InvalidRequest(
            f"tool_choice can't be {choice[:100]!r}: use none, auto, required, "
            '{"type": "function", "function": {"name": ...}} or {"type": "allowed_tools", ...}.',
            "tool_choice",
        )
    is_required = choice in ("required", "any")
    if is_required and not declared:
        raise InvalidRequest("tool_choice requires a call, but there are no tools.", "tool_choice")
    if choice == "none":
        return ToolUse()
    return ToolUse(declared, is_required=is_required, is_parallel=is_parallel)


def check_declared(name: str, names: Collection[str]) -> None:
    """Raises InvalidRequest."""
    if name not in names:
        raise InvalidRequest(
            f"tool_choice names {name[:200]}, which is not among the tools"
            f"{': ' + ', '.join(names)[:1000] if names else ''}.",
            "tool_choice",
        )
