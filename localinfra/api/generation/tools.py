"""A request's `tools` and `tool_choice` → `chat.answer.ToolUse`."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from localinfra.api.http.body import decode_within, missing
from localinfra.api.http.held import holding
from localinfra.chance import random_hex
from localinfra.chat.answer import Answer, AnswerFormat, Tool, ToolUse
from localinfra.chat.messages import Json, TypeName
from localinfra.chat.schema.keywords import as_map
from localinfra.chat.schema.prepared import MAX_PARTS
from localinfra.errors import InvalidRequest, UnsupportedParameter

# Agents with several MCP servers send hundreds. 1,000 with five parameters each take 200,000 tokens
# of prompt and a second to compile. llguidance allows 2,000 alternatives.
MAX_TOOLS = 1024
NAME = re.compile(r"[\w.:/-]{1,128}", re.ASCII)  # OpenAI's rule, and characters MCP servers use


class FunctionDefinition(msgspec.Struct, frozen=True):
    name: str = ""
    description: str | None = None
    parameters: Any = None  # a schema; anything else is ignored unless `strict`
    strict: bool | None = None  # true: enforce the whole schema, or refuse the request


class ToolType(msgspec.Struct, frozen=True):
    """The fields that tell whether a tool is a function. Other tools can't be offered here and are
    ignored, whatever else they contain."""

    type: TypeName | None = None
    function: Any = None
    name: Any = None
    parameters: Any = None
    input_schema: Any = None

    @property
    def is_function(self) -> bool:
        if self.type == "custom":  # a function in Anthropic's API, something else in OpenAI's
            return self.input_schema is not None
        if self.type:
            return self.type == "function"
        # Google's tools have no type, only one field of their own: {"google_search": {}}.
        fields = (self.function, self.name, self.parameters, self.input_schema)
        return any(field is not None for field in fields)


class SentFunction(msgspec.Struct, frozen=True):
    """A function in one of three forms: within `function`, as in OpenAI's chat API; flat, as in its
    Responses API; or flat with `input_schema`, as in Anthropic's."""

    function: FunctionDefinition | None = None
    type: TypeName | None = None
    name: str | None = None
    description: str | None = None
    parameters: Any = None
    input_schema: Any = None
    strict: bool | None = None

    def declared(self, path: str, usual: str) -> "Declared":
        """The function in any of the forms. Raises InvalidRequest."""
        if self.function is not None and (self.function.name or self.name is None):
            inner, strict = f"{path}.function", self.function.strict
            strict = self.strict if strict is None else strict  # some clients put it beside
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
    """A function, and the paths of its name and parameters in the request."""

    function: FunctionDefinition
    name_param: str
    param: str

    def tool(self, known_as: str | None = None) -> Tool:
        """`known_as`: its name for the model, if not its own. Raises InvalidRequest."""
        return declared_tool(
            known_as or self.function.name,
            self.function.description,
            self.function.parameters,
            name_param=self.name_param,
            param=self.param,
            is_strict=bool(self.function.strict),
        )


def read_function(
    path: str, sent: Any, unknown: list[str], usual: str = "function"
) -> Declared | None:
    """None for a tool of another kind. `usual`: the field that holds the name in this API, for
    errors. Adds paths of unknown names to `unknown`. Raises InvalidRequest."""
    if not decode_within(path, sent, ToolType, []).is_function:
        return None
    return decode_within(path, sent, SentFunction, unknown).declared(path, usual)


SentTool = Annotated[Any, holding(SentFunction)]  # or a tool of another kind
SentTools = Annotated[list[SentTool], Meta(max_length=MAX_TOOLS)]


class Tools(msgspec.Struct, frozen=True):
    """A request's tools: those that the model may call, and what was ignored."""

    declared: list[Tool]
    left_out: list[str]  # paths of the tools ignored
    unknown: list[str]  # paths of unknown names


def read_tools(sent: Sequence[Any]) -> Tools:
    """Raises InvalidRequest with the path of the mistake in a function."""
    found = Tools([], [], [])
    for at, tool in enumerate(sent):
        if tool is None:
            continue
        path = f"tools[{at}]"
        function = read_function(path, tool, found.unknown)
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
    """A function in the form templates expect, which is OpenAI's. Raises InvalidRequest."""
    if not NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name[:200]!r} is not a valid function name: use 1 to 128 letters, digits, and the "
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
    """The schema with an object for each property, as templates that walk through them expect."""
    if not isinstance(parameters, dict):
        return {}
    if "properties" not in parameters:
        return parameters
    properties = as_map(parameters["properties"])
    if len(properties) > MAX_PARTS:
        return parameters  # this runs on the event loop
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
    """The model sees all tools but may call only these; with `required` it must call one."""

    names: list[str]
    mode: str  # auto or required


class AllowedChoice(msgspec.Struct, frozen=True):
    """OpenAI's `allowed_tools`: within a `ToolChoice`, or flat as in the Responses API."""

    mode: TypeName | None = None  # default: auto
    tools: Annotated[list["ToolChoice"], Meta(max_length=MAX_TOOLS)] = []


class ToolChoice(msgspec.Struct, frozen=True, omit_defaults=True):
    """A `tool_choice` object, in all forms of OpenAI's APIs."""

    type: TypeName = ""  # default: a function
    function: NamedFunction | None = None  # in chat
    name: FunctionName | None = None  # in the Responses API, like the next
    namespace: FunctionName | None = None
    allowed_tools: AllowedChoice | None = None  # in chat
    mode: TypeName | None = None  # in the Responses API, like the next
    tools: Annotated[list["ToolChoice"], Meta(max_length=MAX_TOOLS)] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it counts as absent."""
        return self == ToolChoice()

    @property
    def function_name(self) -> FunctionName | None:
        return self.function.name if self.function else self.name

    @property
    def allowed(self) -> AllowedChoice:
        """The choice of type `allowed_tools`."""
        return self.allowed_tools or AllowedChoice(self.mode, self.tools or [])

    def choice(self, path: str = "tool_choice") -> str | NamedTool | AllowedTools:
        """The choice itself. Raises InvalidRequest or UnsupportedParameter."""
        if self.type in ("none", "auto", "required", "any"):
            return self.type
        if self.type == "allowed_tools":
            return self._allowed(path)
        if self.type not in ("", "function", "tool"):
            raise UnsupportedParameter(
                f"tool_choice can't be of type {self.type[:100]!r}: this server runs no tools "
                "itself. Choose a function.",
                f"{path}.type",
            )
        name = self.function_name
        if name is None:
            raise InvalidRequest(
                f'{path} has no name: use {{"type": "function", "function": {{"name": ...}}}}.',
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
                raise InvalidRequest(
                    "allowed_tools can only list functions.", f"{within}.tools[{at}].type"
                )
            names.append(named.function.name)
        return AllowedTools(names, mode)


def tool_use(tools: Tools, choice: str | ToolChoice | None, is_parallel: bool) -> ToolUse:
    """Raises InvalidRequest or UnsupportedParameter."""
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
        "tool_choice requires a call, but this server can't run any of these tools: declare "
        "functions and run them in your client.",
        "tool_choice",
    )


def answer_of(wanted: AnswerFormat | None, use: ToolUse, format_name: str) -> Answer:
    """The form required of an answer. Raises InvalidRequest if both a call and a format are;
    `format_name`: the format's field in the request."""
    if use.is_required and wanted:
        raise InvalidRequest(
            f"A required tool call and {format_name} exclude each other: leave one of them out.",
            "tool_choice",
        )
    return Answer(wanted, use)


def call_id() -> str:
    """An id in OpenAI's form."""
    return f"call_{random_hex(24)}"


def too_many_tools() -> InvalidRequest:
    return InvalidRequest(f"A request can have at most {MAX_TOOLS} tools.", "tools")


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
    if choice not in ("none", "auto", "required", "any"):  # LangChain sends "any"
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
