"""Items in a Responses request that come from tools of OpenAI's service or its clients.

Calls become function calls, with their output if the item holds it, so that conversations begun
elsewhere can continue here. https://platform.openai.com/docs/api-reference/responses
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from localinfra.api.openai.responses.items import (
    AnyItem,
    FunctionCallItem,
    FunctionCallOutputItem,
    Status,
    new_id,
)
from localinfra.chat.messages import MAX_MESSAGES, json_text


class ForeignItem(msgspec.Struct, frozen=True, kw_only=True):
    type: str | None = None
    id: str | None = None
    status: str | None = None

    def items(self) -> list[AnyItem]:
        raise NotImplementedError

    def _call(self, call_id: str, name: str, arguments: Any, namespace: str = "") -> AnyItem:
        """`arguments`: JSON text, or a value to encode."""
        status: Status = "incomplete" if self.status == "incomplete" else "completed"
        return FunctionCallItem(
            id=self.id or new_id("fc"),
            status=status,
            call_id=call_id,
            name=name,
            namespace=namespace or msgspec.UNSET,
            arguments=json_text(arguments),
        )

    def _output(self, call_id: str, output: Any) -> AnyItem:
        """`output`: text, or a value to encode as JSON."""
        return FunctionCallOutputItem(id=new_id("fco"), call_id=call_id, output=json_text(output))


class CustomCallItem(ForeignItem, frozen=True, kw_only=True):
    """A call of a tool that takes free text, such as a patch."""

    call_id: str
    name: str
    namespace: str | None = None
    input: str | None = None

    def items(self) -> list[AnyItem]:
        arguments = {"input": self.input or ""}
        return [self._call(self.call_id, self.name, arguments, self.namespace or "")]


class LocalShellCall(ForeignItem, frozen=True, kw_only=True):
    call_id: str | None = None
    action: dict[str, Any]

    def items(self) -> list[AnyItem]:
        return [self._call(self.call_id or self.id or "", "local_shell", self.action)]


class ShellCall(ForeignItem, frozen=True, kw_only=True):
    call_id: str
    action: dict[str, Any]

    def items(self) -> list[AnyItem]:
        return [self._call(self.call_id, "shell", self.action)]


class ApplyPatchCall(ForeignItem, frozen=True, kw_only=True):
    call_id: str
    operation: dict[str, Any]

    def items(self) -> list[AnyItem]:
        return [self._call(self.call_id, "apply_patch", self.operation)]


class ForeignOutput(ForeignItem, frozen=True, kw_only=True):
    """Output of a shell or a patch. In a local shell's output, `id` is the call's id."""

    call_id: str | None = None
    output: str | Annotated[list[Any], Meta(max_length=MAX_MESSAGES)] | None = None

    def items(self) -> list[AnyItem]:
        output = self.status or "" if self.output is None else self.output
        return [self._output(self.call_id or self.id or "", output)]


class McpCall(ForeignItem, frozen=True, kw_only=True):
    name: str
    server_label: str = ""
    arguments: str | dict[str, Any] | None = None
    output: str | None = None
    error: Any = None

    def items(self) -> list[AnyItem]:
        output = self.output if self.output is not None else f"Error: {json_text(self.error)}"
        call_id = self.id or new_id("mcp")
        call = self._call(call_id, self.name, self.arguments or "{}", self.server_label)
        return [call, self._output(call_id, output)]


class CodeInterpreterCall(ForeignItem, frozen=True, kw_only=True):
    code: str | None = None
    outputs: Annotated[list[dict[str, Any]], Meta(max_length=MAX_MESSAGES)] | None = None

    def items(self) -> list[AnyItem]:
        logs = [str(output.get("logs", "")) for output in self.outputs or ()]
        call_id = self.id or new_id("ci")
        call = self._call(call_id, "code_interpreter", {"code": self.code or ""})
        return [call, self._output(call_id, "\n".join(filter(None, logs)))]


FOREIGN: dict[str, type[ForeignItem]] = {
    "custom_tool_call": CustomCallItem,
    "local_shell_call": LocalShellCall,
    "local_shell_call_output": ForeignOutput,
    "shell_call": ShellCall,
    "shell_call_output": ForeignOutput,
    "apply_patch_call": ApplyPatchCall,
    "apply_patch_call_output": ForeignOutput,
    "mcp_call": McpCall,
    "code_interpreter_call": CodeInterpreterCall,
}
