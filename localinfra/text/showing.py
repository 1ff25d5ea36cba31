"""Pictures in a conversation: marks stand for them in its texts until the prompt is made.

A mark is a word that nobody can guess, so no text can show a picture, or hide one. It is replaced
after the template has run: what models expect around a picture comes from its projector.
"""

import re
import secrets
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from localinfra.chat.messages import ImageUrl, Message, PictureMark

if TYPE_CHECKING:
    from localinfra.engine.pictures import Placed  # imports numpy
    from localinfra.text.eyes import SeenPicture


class Link(NamedTuple):
    """A picture that a client has sent, and where."""

    image: ImageUrl
    path: str


class ShownPictures(msgspec.Struct, frozen=True):
    """The pictures of a conversation, as the model reads them; marks are numbered by them."""

    word: str = ""  # that marks begin with
    pictures: "Sequence[SeenPicture]" = ()


NOTHING_SHOWN = ShownPictures()


def links(messages: Sequence[Message]) -> list[Link]:
    """The pictures in messages, but not those that assistants are said to have sent."""
    return [
        Link(part.picture, f"messages[{at}].content[{index}]")
        for at, message in enumerate(messages)
        if isinstance(message.content, list) and message.role != "assistant"
        for index, part in enumerate(message.content)
        if part.picture is not None
    ]


def new_word() -> str:
    return f"picture{secrets.token_hex(16)}x"


def mark(word: str, number: int) -> str:
    return f"{word}{number}z"


def marked(messages: Sequence[Message], word: str) -> list[Message]:
    """The messages with a mark in the place of each of `links`."""
    number = 0
    found = []
    for message in messages:
        if isinstance(message.content, list) and message.role != "assistant":
            parts = list(message.content)
            for index, part in enumerate(parts):
                if part.picture is not None:
                    parts[index] = PictureMark("text", mark(word, number))
                    number += 1
            message = msgspec.structs.replace(message, content=parts)
        found.append(message)
    return found


class PromptWithPictures:
    """Token ids, to which texts and pictures are added in order."""

    def __init__(self, shown: ShownPictures):
        self.ids: list[int] = []
        self.placed: list[Placed] = []
        self._shown = shown
        self._marks = re.compile(re.escape(shown.word) + r"(\d+)z") if shown.word else None

    def texts(self, text: str) -> Iterator[str]:
        """The texts between marks, to be added to `ids` one after the other. Adds the pictures
        between them itself."""
        if self._marks is None:
            yield text
            return
        at = 0
        for found in self._marks.finditer(text):
            if found.start() > at or not self.ids:  # also an empty one, which may need a BOS token
                yield text[at : found.start()]
            self._show(self._shown.pictures[int(found[1])])
            at = found.end()
        if at < len(text):
            yield text[at:]

    def _show(self, seen: "SeenPicture") -> None:
        from localinfra.engine.pictures import Placed

        for part in seen.parts:
            if isinstance(part, list):
                self.ids += part
            else:
                self.placed.append(Placed(len(self.ids), part))
                self.ids += part.tokens
