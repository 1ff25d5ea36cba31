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
    messages: Sequence[Message], tools: Sequence[Mapping[str, Json]]
) -> list[Message]:
    """The same conversation in roles and texts that every template knows."""
    plain = [_plain(message) for message in messages]
    if tools:
        lines = "\n".join(msgspec.json.encode(tool).decode() for tool in tools)
        plain = _instructed(plain, INSTRUCTION.format(tools=lines))
    return plain


def _instructed(messages: list[Message], instruction: str) -> list[Message]:
    first, *others = messages
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
