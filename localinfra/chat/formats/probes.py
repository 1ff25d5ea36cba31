"""Conversations that show how a template writes an assistant's message. Owns the words in them."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from localinfra.chat.formats.form import ID, NAME
from localinfra.chat.messages import Json, Plain

# Words that occur in no template; none is part of another.
USER, NEXT, SAID, THOUGHT = "Kwuserj", "Kwnextj", "Kwsaidj", "Kwthoughtj"
KEYS, VALUES = ("kwaj", "kwbj"), ("Kwonej", "Kwtwoj")
NAMES = "Kwfirstj", "Kwsecondj"
IDS, LONG_IDS = ("Kwid00001", "Kwid00002"), ("call_Kwid00001", "call_Kwid00002")
TOOLS: list[Json] = [
    {
        "type": "function",
        "function": {
            "name": "Kwtoolj",
            "description": "d",
            "parameters": {
                "type": "object",
                "properties": {key: {"type": "string", "description": "x"} for key in KEYS},
                "required": [],
            },
        },
    }
]
MAX_TURN_CHARS = 4096  # published templates write up to 2000; comparing takes more than linear time
OURS = re.compile("[\0-\5\ud800-\udfff]")  # placeholders, in `members.py` too; and half characters


class NotDerived(Exception):
    """The message says why."""


class Render(Protocol):
    def __call__(
        self,
        messages: Sequence[Plain],
        tools: Sequence[Json] = (),
        *,
        is_prompt: bool = False,
        flags: Mapping[str, Json] = {},
    ) -> str | None:
        """The text, or None if the template fails. `is_prompt`: with what begins the answer."""


class Style(msgspec.Struct, frozen=True):
    """How this template wants messages with calls."""

    is_text: bool = False  # arguments
    content: str | None = ""


STYLES = [Style(is_text, content) for is_text in (False, True) for content in ("", None)]


class Probes:
    """What one template writes after the user's message, with placeholders for names and ids."""

    def __init__(self, render: Render):
        self._render = render
        user: Plain = {"role": "user", "content": USER}
        self._asked = [user]
        # Tools that others accept are too much for a template that reads them in its own way.
        self._tools = TOOLS if render(self._asked, TOOLS) is not None else []

    def turn(
        self,
        message: Plain | None = None,
        then: str | None = None,
        flags: Mapping[str, Json] = {},
    ) -> str | None:
        """The assistant's `message`, then a user's; or without any, what begins an answer."""
        messages = [*self._asked]
        if message:
            messages.append({"role": "assistant", **message})
        if then:
            messages.append({"role": "user", "content": then})
        text = self._render(messages, self._tools, is_prompt=message is None, flags=flags)
        start = text.rfind(USER) if text else -1
        if text is None or start < 0 or len(text) - start > MAX_TURN_CHARS:
            return None
        text = text[start + len(USER) :]
        if OURS.search(text):
            return None
        for words, placeholder in ((NAMES, NAME), (IDS, ID)):
            for word in words:
                text = text.replace(word, placeholder)
        return text

    def calls(
        self,
        style: Style,
        *arguments: Mapping[str, Json],
        content: str | None = None,
        ids: tuple[str, str] = IDS,
        more: Mapping[str, Json] = {},
        flags: Mapping[str, Json] = {},
    ) -> str | None:
        """A message with one call for each of `arguments`."""
        calls: list[Json] = [
            {
                "type": "function",
                "id": id,
                "function": {
                    "name": name,
                    "arguments": json.dumps(given) if style.is_text else dict(given),
                },
            }
            for id, name, given in zip(ids, NAMES, arguments, strict=False)
        ]
        message = {"content": content or style.content, "tool_calls": calls, **more}
        return self.turn(message, flags=flags)

    @property
    def instruction(self) -> str:
        """What the model is told before the user's message, with tools."""
        return (self._render(self._asked, self._tools) or "").partition(USER)[0]

    @property
    def describes_tools(self) -> bool:
        """Whether the prompt differs with and without tools."""
        return self._render(self._asked, self._tools) != self._render(self._asked, [])

    def styles(self) -> list[Style]:
        """Styles in which a call is shown. The shortest text is first, since others write "None" or
        an empty message too; but arguments as text are last, since some copy any text."""
        sizes: dict[Style, int] = {}
        for style in STYLES:
            text = self.calls(style, {KEYS[0]: VALUES[0]})
            if text and (NAME in text or ID in text) and VALUES[0] in text:
                sizes[style] = len(text)
        return sorted(sizes, key=lambda style: (style.is_text, sizes[style]))


def spans_of_json(text: str, values: Sequence[Json]) -> list[tuple[int, int]] | None:
    """Where these objects stand in this order as JSON, or None if they don't."""
    decoder = json.JSONDecoder()
    spans: list[tuple[int, int]] = []
    at = 0
    for value in values:
        while (at := text.find("{", at)) >= 0:
            try:
                decoded, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError):
                decoded, end = None, at
            if decoded == value:
                spans.append((at, end))
                at = end
                break
            at += 1
        else:
            return None
    return spans
