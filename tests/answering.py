"""What a template renders for an assistant's message, read back by the parser of its model."""

import json
from collections.abc import Iterable, Sequence

import msgspec

from localinfra.chat.answer import Tool, parser_of
from localinfra.chat.formats.form import Voice
from localinfra.chat.formats.pieces import CallArguments, CallStart, Content, Thought
from localinfra.chat.formats.tokens import shared_start, tokens
from localinfra.chat.messages import FunctionCall, Json, Message, ToolCall
from localinfra.chat.template import ChatTemplate

ASKED = Message("user", "Kwaskedj")
SAID, THOUGHT = "Kwsaidj", "Kwthoughtj"
# Every JSON type, with what stands in the marks of some forms.
ARGUMENTS: dict[str, Json] = {
    "text": "a <b>\"q\"</b> 'x' \\ \n é 😀 </tool_call> ] }",
    "empty": "",
    "digits": "12",
    "integer": 7,
    "number": -1500.5,
    "yes": True,
    "no": False,
    "object": {"k": [1, "two", {"z": True}], "e": {}},
    "list": ["x", {"y": 2}],
}
KINDS = {str: "string", int: "integer", float: "number", bool: "boolean"}


def schema_of(value: Json) -> dict[str, Json]:
    if isinstance(value, dict):
        properties: dict[str, Json] = {key: schema_of(inner) for key, inner in value.items()}
        return {"type": "object", "properties": properties, "additionalProperties": True}
    if isinstance(value, list):
        return {"type": "array", "items": {}}
    return {"type": KINDS[type(value)]}


def described(schema: dict[str, Json]) -> dict[str, Json]:
    """With the descriptions that templates want to read everywhere."""
    found: dict[str, Json] = {"description": "d", **schema}
    properties, items = schema.get("properties"), schema.get("items")
    if isinstance(properties, dict):
        found["properties"] = {
            name: described(each) for name, each in properties.items() if isinstance(each, dict)
        }
    if isinstance(items, dict):
        found["items"] = described(items)
    return found


PARAMETERS = described(schema_of(ARGUMENTS))
TOOLS = [Tool(name, {}, PARAMETERS, "tools") for name in ("look_up", "take_in")]


class Read(msgspec.Struct, frozen=True):
    """An answer, in its parts."""

    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, Json]] = []

    @property
    def message(self) -> Message:
        calls = [
            ToolCall(FunctionCall(name, json.dumps(arguments, ensure_ascii=False)), f"Kwid0000{at}")
            for at, (name, arguments) in enumerate(self.calls)
        ]
        return Message(
            "assistant",
            self.content,
            tool_calls=calls or None,
            reasoning_content=self.reasoning or None,
        )


LOOK: tuple[str, Json] = ("look_up", ARGUMENTS)
TAKE: tuple[str, Json] = ("take_in", {"text": "b"})
ANSWERS = {
    "content": Read(SAID),
    "reasoning": Read(SAID, THOUGHT),
    "call": Read(calls=[LOOK]),
    "no arguments": Read(calls=[("look_up", {})]),
    "two calls": Read(calls=[LOOK, TAKE]),
    "content and a call": Read(SAID, calls=[TAKE]),
    "reasoning and a call": Read("", THOUGHT, [TAKE]),
}


def written(
    template: ChatTemplate, answer: Read, tools: Sequence[Tool] = TOOLS
) -> tuple[str, bool]:
    """The text of an answer, and whether the prompt has opened its reasoning."""
    voice = template.voice
    declared: list[dict[str, Json]] = [
        {
            "type": "function",
            "function": {"name": tool.name, "description": "d", "parameters": tool.parameters},
        }
        for tool in tools
    ]
    said = [ASKED, answer.message]
    prompt = template.render([ASKED], tools=declared).text
    whole = template.render(said, tools=declared, add_generation_prompt=False).text
    shared = shared_start(whole, prompt)
    # Command R+ says more to the model before the assistant's role.
    text = whole[len(shared) :].removeprefix(tokens(prompt)[-1])
    if not voice.reasoning:
        return text, False
    if voice.reasoning.is_open_at_end_of(shared):
        return text, True
    if THOUGHT in text and voice.reasoning.begin not in voice.begun + text:
        return text, True  # only prompts write its mark
    closed = text.lstrip().startswith(voice.reasoning.end)  # a prompt would have done that
    return text.lstrip().removeprefix(voice.reasoning.end) if closed else text, False


def read(
    voice: Voice, parts: Iterable[str], is_thinking: bool, tools: Sequence[Tool] = TOOLS
) -> Read:
    parser = parser_of(voice, tools=tools, is_thinking=is_thinking)
    assert parser
    pieces = [piece for part in parts for piece in parser.push(part)] + parser.finish()
    content = "".join(piece.text for piece in pieces if isinstance(piece, Content))
    reasoning = "".join(piece.text for piece in pieces if isinstance(piece, Thought))
    calls: list[tuple[str, str]] = []
    for piece in pieces:
        if isinstance(piece, CallStart):
            calls.append((piece.name, ""))
        elif isinstance(piece, CallArguments):
            calls[-1] = (calls[-1][0], calls[-1][1] + piece.text)
    return Read(content, reasoning.rstrip(), [(name, json.loads(text)) for name, text in calls])
