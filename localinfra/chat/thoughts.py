"""Reasoning of earlier answers, in the form that a template reads.

Templates read it under different names, as blocks, or within the content. Pure.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from localinfra.chat.formats.form import ReasoningMarks
from localinfra.chat.messages import Json, Message, Plain

Field = Literal["reasoning_content", "reasoning", "thinking", "thought"]
FIELDS: Sequence[Field] = ("reasoning_content", "reasoning", "thinking", "thought")


class Thoughts(msgspec.Struct, frozen=True):
    """Where one template reads the reasoning of a message."""

    place: Field | Literal["blocks", "content"] = "reasoning_content"
    marks: ReasoningMarks | None = None  # around blocks and what stands in the content
    # The template writes blanks there itself; the model's own would be doubled.
    has_blank_before: bool = False
    has_blank_after: bool = False
    refuses_texts: bool = False  # gpt-oss's fails if a message has reasoning, a text and calls

    def placed(self, message: Plain) -> Plain:
        """The message as the template reads it; `reasoning_content` is the reasoning until then."""
        thought, content = message.get("reasoning_content"), message["content"]
        if not isinstance(thought, str) or not thought.strip():
            return message
        thought = thought.lstrip() if self.has_blank_before else thought
        thought = thought.rstrip() if self.has_blank_after else thought
        others = {key: value for key, value in message.items() if key != "reasoning_content"}
        if self.place == "content" and self.marks:
            said = f"{self.marks.begin}\n{thought.strip()}\n{self.marks.end}\n\n{content or ''}"
            return {**others, "content": said}
        if self.place == "blocks":
            blocks: list[Json] = [{"type": "thinking", "thinking": thought}]
            if content:
                blocks.append({"type": "text", "text": content})
            return {**others, "content": blocks}
        return {**others, self.place: thought}

    def is_shown(self, turn: str, thought: str) -> bool:
        """Whether this turn, as the template writes it, has the thought where reasoning stands."""
        if turn.count(thought) != 1:
            return False
        if self.marks is None:
            return True
        # Some print lists as they are, or an empty reasoning before every content.
        before = turn.partition(thought)[0].rstrip()
        return before.endswith(self.marks.begin) and before.count(self.marks.begin) == 1


USUAL = Thoughts()


def candidates(marks: ReasoningMarks | None) -> Iterator[Thoughts]:
    """In the order in which they should be tried."""
    for field in FIELDS:
        yield Thoughts(field)
    if marks:
        yield Thoughts("blocks", marks)
        yield Thoughts("content", marks)


def taken_out(messages: Sequence[Message], marks: ReasoningMarks | None) -> list[Message]:
    """Separates reasoning that clients left in the content, with its marks. Not in the last
    message, which may be continued. `messages` have text or None as content."""
    if marks is None or len(messages) < 2:
        return [*messages]
    return [*(_taken_out(message, marks) for message in messages[:-1]), messages[-1]]


def _taken_out(message: Message, marks: ReasoningMarks) -> Message:
    content = message.content
    if message.role != "assistant" or not isinstance(content, str):
        return message
    before, begin, rest = content.partition(marks.begin)
    thought, end, said = rest.partition(marks.end)
    if before.strip() or not (begin and end):
        return message
    return msgspec.structs.replace(
        message,
        content=said.lstrip("\n") or (None if message.tool_calls else ""),
        reasoning_content=message.reasoning_content or thought.strip(),
    )
