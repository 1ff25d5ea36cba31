"""Tools for templates that know none: an instruction, and calls and results as plain messages.

The generic form, for models such as SmolLM2: the functions stand in the system message, one JSON
object a line between `<tools>` and `</tools>`; the model calls one by

    <tool_call>
    {"name": "FUNCTION", "arguments": {...}}
    </tool_call>

and reads its result in the next user message, between `<tool_response>` and `</tool_response>`.
(The wording that Hermes models were trained with; others have often seen it.)
"""

from collections.abc import Mapping, Sequence

import msgspec

from localinfra.chat.messages import Json, Message

INSTRUCTION = """You may call functions to help with the user's request. JSON Schemas within \
<tools></tools> describe them:
<tools>
{tools}
</tools>

To call a function, answer with its name and arguments as JSON within <tool_call></tool_call>:
<tool_call>
{{"name": "FUNCTION", "arguments": {{"ARGUMENT": "VALUE"}}}}
</tool_call>"""


def as_plain_messages(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Json]], *, in_system: bool = True
) -> list[Message]:
    """The same conversation in roles and texts that every template knows. With `in_system` the
    instruction is a system message, else the beginning of the first message."""
    plain: list[Message] = []
    last_result: Message | None = None
    for message in messages:
        told = _plain(message)
        if message.role == "tool" and plain and plain[-1] is last_result:
            # Many templates want users and assistants to alternate.
            told = msgspec.structs.replace(told, content=f"{_text(plain.pop())}\n{_text(told)}")
        last_result = told if message.role == "tool" else None
        plain.append(told)
    if tools:
        lines = "\n".join(msgspec.json.encode(tool).decode() for tool in tools)
        plain = _instructed(plain, INSTRUCTION.format(tools=lines), in_system)
    return plain


def _instructed(messages: list[Message], instruction: str, in_system: bool) -> list[Message]:
    first, *others = messages
    if not in_system and first.role == "user":
        content = f"{instruction}\n\n{_text(first)}"
        return [msgspec.structs.replace(first, content=content), *others]
    if first.role in ("system", "developer") and isinstance(first.content, str):
        content = f"{first.content}\n\n{instruction}"
        return [msgspec.structs.replace(first, content=content), *others]
    return [Message(role="system", content=instruction), *messages]


def _plain(message: Message) -> Message:
    if message.role == "tool":
        text = f"<tool_response>\n{_text(message)}\n</tool_response>"
        return Message(role="user", content=text)
    if message.tool_calls:
        calls = [
            f'<tool_call>\n{{"name": "{call.function.name}", '
            f'"arguments": {call.function.arguments or "{}"}}}\n</tool_call>'
            for call in message.tool_calls
        ]
        text = "\n".join(part for part in (_text(message), *calls) if part)
        return msgspec.structs.replace(message, content=text, tool_calls=None)
    return message


def _text(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return "\n".join(part.text or part.refusal or "" for part in message.content or ())
