"""Pictures and sounds in a conversation: marks stand for them in its texts until the prompt is
made.

A mark is a word that nobody can guess, so no text can show a picture, or hide one. It is replaced
after the template has run: what models expect around a picture comes from its projector.
"""

import re
import secrets
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from localinfra.chat.messages import ContentPart, ImageUrl, Message, PictureMark
from localinfra.errors import InvalidRequest
from localinfra.models.senses import Sense
from localinfra.sounds.samples import is_sound_url

if TYPE_CHECKING:
    from localinfra.engine.pictures import Placed  # imports numpy
    from localinfra.text.eyes import SeenPicture


class Link(NamedTuple):
    """A picture or a sound that a client has sent, and where."""

    image: ImageUrl
    path: str
    is_sound: bool = False

    @property
    def sense(self) -> Sense:
        """What reads it."""
        return Sense.HEARING if self.is_sound else Sense.SIGHT


class ShownPictures(msgspec.Struct, frozen=True):
    """The pictures of a conversation, as the model reads them; marks are numbered by them."""

    word: str = ""  # that marks begin with
    # None: one that stays as it is in the messages
    pictures: "Sequence[SeenPicture | None]" = ()

    @property
    def unread(self) -> frozenset[int]:
        return frozenset(at for at, seen in enumerate(self.pictures) if seen is None)


NOTHING_SHOWN = ShownPictures()


def links(messages: Sequence[Message]) -> list[Link]:
    """The pictures and sounds in messages, but not those that assistants are said to have sent."""
    return [
        link
        for at, message in enumerate(messages)
        if isinstance(message.content, list) and message.role != "assistant"
        for index, part in enumerate(message.content)
        if (link := link_of(part, f"messages[{at}].content[{index}]"))
    ]


def link_of(part: ContentPart, path: str) -> Link | None:
    """What a file is counts more than what its part is called: Ollama's clients send sounds among
    `images`."""
    if part.picture is not None:
        return Link(part.picture, path, is_sound_url(part.picture.url))
    return None if part.sound is None else Link(ImageUrl(part.sound), path, is_sound=True)


def new_word() -> str:
    return f"picture{secrets.token_hex(16)}x"


def mark(word: str, number: int) -> str:
    return f"{word}{number}z"


def marked(
    messages: Sequence[Message], word: str, unread: frozenset[int] = frozenset()
) -> list[Message]:
    """The messages with a mark in the place of each of `links`, but for those with the numbers
    `unread`."""
    number = 0
    found = []
    for message in messages:
        if isinstance(message.content, list) and message.role != "assistant":
            parts = list(message.content)
            for index, part in enumerate(parts):
                if part.picture is not None or part.sound is not None:
                    if number not in unread:
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
        self._found: set[int] = set()  # numbers of marks
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
            number = int(found[1])
            self._found.add(number)
            seen = self._shown.pictures[number]
            assert seen is not None, "it has no mark"
            self._show(seen)
            at = found.end()
        if at < len(text):
            yield text[at:]

    def check_whole(self, model: str) -> None:
        """Raises InvalidRequest if the texts had no marks of some pictures, or altered ones."""
        expected = {at for at, seen in enumerate(self._shown.pictures) if seen is not None}
        if lost := expected - self._found:
            raise InvalidRequest(
                f"The chat template of {model} leaves out or changes the text around picture or "
                f"sound {min(lost) + 1} of {len(self._shown.pictures)}: move it to the user's last "
                "message, or set another chat_template in models.toml.",
                "messages",
            )

    def _show(self, seen: "SeenPicture") -> None:
        from localinfra.engine.pictures import Placed

        for part in seen.parts:
            if isinstance(part, list):
                self.ids += part
            else:
                self.placed.append(Placed(len(self.ids), part))
                self.ids += part.tokens
