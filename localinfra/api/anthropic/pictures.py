"""Images in Anthropic's messages: their blocks → links, and marks in the place of blocks. Pure."""

import itertools
import re
from collections.abc import Iterator, Sequence

import msgspec

from localinfra.api.anthropic.input import Block, DocumentSource, InputMessage, placed
from localinfra.chat.messages import ImageUrl, Message
from localinfra.text.showing import Link, mark


def source_of(block: Block) -> DocumentSource | None:
    """The source of an image, None for another block."""
    source = block.source if block.type == "image" else None
    if isinstance(source, DocumentSource) and source.type in ("base64", "url"):
        return source
    return None


def link_of(source: DocumentSource) -> ImageUrl:
    """Copies the image, which takes a millisecond for some megabytes."""
    if source.type == "url":
        return ImageUrl(source.url or "")
    data = source.data or ""
    # What it is the file tells; some clients send a data URL here too.
    return ImageUrl(data if data.startswith("data:") else f"data:image/png;base64,{data}")


def block_links(messages: Sequence[InputMessage]) -> list[Link]:
    """The images that users have sent, or that are results of tools, in order."""
    return [
        Link(link_of(source), path)
        for at, message in enumerate(messages)
        if message.role == "user"
        for path, block in with_results(placed(message.content, f"messages[{at}].content"))
        if (source := source_of(block))
    ]


def with_results(blocks: list[tuple[str, Block]]) -> Iterator[tuple[str, Block]]:
    """The blocks, with those inside of results in their place."""
    for path, block in blocks:
        if block.type == "tool_result" and isinstance(block.content, list):
            yield from placed(block.content, f"{path}.content")
        else:
            yield path, block


def with_marks(messages: Sequence[InputMessage], word: str) -> list[InputMessage]:
    """The messages with a mark as text in the place of each of `block_links`."""
    numbers = itertools.count()

    def marked(block: Block) -> Block:
        if source_of(block):
            return Block("text", mark(word, next(numbers)))
        if block.type == "tool_result" and isinstance(block.content, list):
            return msgspec.structs.replace(block, content=[*map(marked, block.content)])
        return block

    return [
        msgspec.structs.replace(message, content=[*map(marked, message.content)])
        if message.role == "user" and isinstance(message.content, list)
        else message
        for message in messages
    ]


def without_breaks(messages: Sequence[Message], word: str) -> list[Message]:
    """The messages without the newlines that joined marks to the texts around them: models expect
    none beside a picture."""
    around = re.compile(rf"\n?({re.escape(word)}\d+z)\n?")
    return [
        msgspec.structs.replace(message, content=around.sub(r"\1", message.content))
        if isinstance(message.content, str)
        else message
        for message in messages
    ]
