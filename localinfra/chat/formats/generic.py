"""Tools for templates that know none: an instruction, and calls and results as plain messages.

The generic form, for models such as SmolLM2: the system message lists the functions, one JSON
object per line between `<tools>` and `</tools>`; the model calls one with

    <tool_call>
    {"name": "FUNCTION", "arguments": {...}}
    </tool_call>

and reads its result in the next user message, between `<tool_response>` and `</tool_response>`.
(Hermes models were trained on this wording; others have often seen it.) A template that writes
calls but describes no tools gets the instruction alone, with the form of its own calls.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence

import msgspec

from localinfra.chat.formats.form import ID, INDEX, KEY, NAME, TYPE, CallForm
from localinfra.chat.messages import Json, Message
from localinfra.long_text import join

GENERIC = CallForm(
    trigger="<tool_call>",
    before='<tool_call>\n{"name": "' + NAME + '", "arguments": ',
    after="}\n</tool_call>",
    separator="\n",
)

TOOLS = """You may call functions to help with the user's request. JSON Schemas within \
<tools></tools> describe them:
<tools>
{tools}
</tools>

"""
IN_GENERIC = """To call a function, answer with its name and arguments as JSON within \
<tool_call></tool_call>:"""
IN_ANOTHER = "To call a function, answer in this form:"


def instruction(tools: Sequence[Mapping[str, Json]], form: CallForm = GENERIC) -> str:
    """Tells the model which functions there are and how to call one; "" without any."""
    if not tools:
        return ""
    lines = "\n".join(msgspec.json.encode(tool).decode() for tool in tools)
    how = IN_GENERIC if form == GENERIC else IN_ANOTHER
    return f"{TOOLS.format(tools=lines)}{how}\n{_example(form)}"


def _example(form: CallForm) -> str:
    arguments = '{"ARGUMENT": "VALUE"}'
    if members := form.members:
        before = members.before.replace(TYPE, members.types.get("string", ""))
        opening, closing = members.quotes if members.quotes_always else ("", "")
        arguments = f"{before}{opening}VALUE{closing}{members.after}".replace(KEY, "ARGUMENT")
    text = f"{form.opening}{form.before}{arguments}{form.after}{form.closing}"
    return text.replace(NAME, "FUNCTION").replace(ID, "000000001").replace(INDEX, "0")


def as_plain_messages(
    messages: Sequence[Message],
    chosen: Collection[int] | None = None,
    form: CallForm = GENERIC,
) -> list[Message]:
    """The conversation in roles and texts that every template knows; with `chosen`, only these
    indices are rewritten. `messages` have text or None as content. `form`: of calls, with
    arguments as JSON."""
    plain: list[Message] = []
    results: list[str] = []  # of parallel calls: many templates require roles to alternate
    for at, message in enumerate(messages):
        is_chosen = chosen is None or at in chosen
        if is_chosen and message.role == "tool":
            results.append(f"<tool_response>\n{message.content}\n</tool_response>")
            continue
        if results:
            plain.append(Message("user", "\n".join(results)))
            results = []
        plain.append(_plain(message, form) if is_chosen else message)
    if results:
        plain.append(Message("user", "\n".join(results)))
    return plain


def instructed(messages: list[Message], instruction: str) -> list[Message]:
    """The instruction is added to a leading system message, or put first in one of its own."""
    if not instruction:
        return messages
    first, *others = messages
    if first.role in ("system", "developer"):
        content = f"{first.content}\n\n{instruction}" if first.content else instruction
        return [msgspec.structs.replace(first, content=content), *others]
    return [Message("system", instruction), *messages]


def _plain(message: Message, form: CallForm) -> Message:
    if not message.tool_calls:
        return message
    pieces = [message.content, "\n"] if message.content and isinstance(message.content, str) else []
    pieces.append(form.opening)
    before = form.before.split(NAME)
    for at, call in enumerate(message.tool_calls):
        pieces += [form.separator] if at else []
        pieces += itertools.chain.from_iterable((part, call.function.name) for part in before)
        pieces[-1] = call.function.arguments or "{}"  # after the last part
        pieces.append(form.after)
    text = join([*pieces, form.closing])
    return msgspec.structs.replace(message, content=text, tool_calls=None)
