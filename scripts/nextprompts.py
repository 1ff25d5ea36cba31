"""Whether a prompt begins with the one before it and the answer to that, so that both are found in
the prefix cache."""

from collections.abc import Sequence

import msgspec

from localinfra.chat.answer import Tool, parser_of
from localinfra.chat.formats.harmony import HARMONY
from localinfra.chat.formats.pieces import CallArguments, CallStart, Content, Piece, Thought
from localinfra.chat.ids import CallIds
from localinfra.chat.messages import FunctionCall, Json, Message, ToolCall
from localinfra.chat.template import ChatTemplate

ASKED = [Message("system", "Be brief."), Message("user", "Look there.")]
SAID, THOUGHT = "Kwsaidj", "Kwthoughtj one.\nKwthoughtj two."
ARGUMENTS = (
    '{"path": "src/é.py", "text": "a \\"b\\"\\n<c>", "count": 3, "all": true, '
    '"deep": {"x": [1, 2]}}',
    '{"text": "d"}',
)
PROPERTIES: dict[str, Json] = {
    "path": {"type": "string", "description": "d"},
    "text": {"type": "string", "description": "d"},
    "count": {"type": "integer", "description": "d"},
    "all": {"type": "boolean", "description": "d"},
    "deep": {"type": "object", "description": "d", "additionalProperties": True,
             "properties": {"x": {"type": "array", "description": "d", "items": {}}}},
}  # fmt: skip
PARAMETERS: dict[str, Json] = {"type": "object", "properties": PROPERTIES}
NAMES = ("kwlookj", "kwtakej")
TOOLS = [
    Tool(
        name,
        {
            "type": "function",
            "function": {"name": name, "description": "d", "parameters": PARAMETERS},
        },
        PARAMETERS,
        "tools",
    )
    for name in NAMES
]


class Turn(msgspec.Struct, frozen=True):
    """A model's turn, and the prompt after it."""

    prompt: str
    answer: str  # as the model writes it: the template shows how
    following: str

    @property
    def is_kept(self) -> bool:
        return bool(self.answer) and self.following.startswith(self.prompt + self.answer)


def after_calls(template: ChatTemplate) -> Turn:
    """A turn with reasoning and two calls, or one if the template knows no more; then results."""
    voice = template.voice
    num_calls = 1 if voice.calls.is_single or voice is HARMONY else 2
    calls = [
        ToolCall(FunctionCall(name, arguments), f"Kwid0000{at}")
        for at, (name, arguments) in enumerate(zip(NAMES, ARGUMENTS, strict=True))
    ]
    answer = Message("assistant", None, tool_calls=calls[:num_calls])
    prompt, text = _answered(template, answer)
    message = _read(template, prompt, text)
    results = [
        Message("tool", f"Result {at}.", tool_call_id=call.id)
        for at, call in enumerate(message.tool_calls or ())
    ]
    return Turn(prompt, text, _rendered(template, [*ASKED, message, *results]))


def after_an_answer(template: ChatTemplate) -> Turn:
    """A turn with reasoning and an answer; then the user says more."""
    prompt, text = _answered(template, Message("assistant", SAID))
    message = _read(template, prompt, text)
    return Turn(prompt, text, _rendered(template, [*ASKED, message, Message("user", "Go on.")]))


def _answered(template: ChatTemplate, answer: Message) -> tuple[str, str]:
    """The prompt, and what the model writes: "" if the template writes an answer otherwise than a
    prompt begins it."""
    prompt = _rendered(template, ASKED)
    marks = template.voice.reasoning
    if marks and not prompt.rstrip().endswith(marks.end):
        answer = msgspec.structs.replace(answer, reasoning_content=THOUGHT)
    definitions = [tool.definition for tool in TOOLS]
    whole = template.render([*ASKED, answer], tools=definitions, add_generation_prompt=False).text
    if not whole.startswith(prompt):
        return prompt, ""
    text = whole[len(prompt) :]
    if not answer.tool_calls:
        return prompt, text[: text.find(SAID) + len(SAID)]
    form = template.voice.calls
    last = next(filter(None, (form.closing.strip(), form.after.strip(), "}")))
    for placeholder in "\0\1\2":
        last = last.partition(placeholder)[0] or "}"
    return prompt, text[: text.rfind(last) + len(last)]


def _read(template: ChatTemplate, prompt: str, text: str) -> Message:
    """The answer as a client sends it back."""
    voice = template.voice
    is_thinking = voice.reasoning is not None and voice.reasoning.is_open_at_end_of(prompt)
    parser = parser_of(voice, tools=TOOLS, is_thinking=is_thinking)
    ids = CallIds(voice.calls, frozenset())
    pieces: list[Piece] = [Content(text)]
    if parser:
        pieces = ids.push([*parser.push(text), *parser.finish()]) + ids.finish()
    calls: list[ToolCall] = []
    for piece in pieces:
        if isinstance(piece, CallStart):
            calls.append(ToolCall(FunctionCall(piece.name), piece.id or f"call_{len(calls):024}"))
        elif isinstance(piece, CallArguments):
            call = calls.pop()
            function = FunctionCall(call.function.name, call.function.arguments + piece.text)
            calls.append(ToolCall(function, call.id))
    content = "".join(piece.text for piece in pieces if isinstance(piece, Content))
    thought = "".join(piece.text for piece in pieces if isinstance(piece, Thought))
    return Message(
        "assistant",
        content if content or not calls else None,
        tool_calls=calls or None,
        reasoning_content=thought or None,
    )


def _rendered(template: ChatTemplate, messages: Sequence[Message]) -> str:
    return template.render(messages, tools=[tool.definition for tool in TOOLS]).text
