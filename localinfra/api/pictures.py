"""Pictures and sounds in a request's conversation: links → what a model that sees or hears reads of
them."""

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from localinfra.api.call import Call
from localinfra.api.fetched import FETCH_LIMIT_S, FetchedPictures
from localinfra.api.http.encoded import decode_base64
from localinfra.chat.messages import PICTURE_TYPES, SOUND_TYPES, Message, last_of_user
from localinfra.errors import InvalidRequest, ModelNotFound, UnsupportedParameter
from localinfra.models.catalog import Catalog
from localinfra.models.entries import TextModelEntry
from localinfra.models.senses import Sense, senses_of
from localinfra.text.showing import (
    NOTHING_SHOWN,
    Link,
    ShownPictures,
    link_of,
    links,
    marked,
    new_word,
)

if TYPE_CHECKING:
    from localinfra.text.eyes import SeenPicture
    from localinfra.text.model import TextModel  # imports numpy, which only a loaded model needs

MAX_PICTURES = 256  # in a conversation, with its sounds
LOW_SIDE = 512  # pixels of the longer side with `detail` low, as in OpenAI's API
DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.I)
MAX_NAMED = 10  # models in an error
MAX_FETCHED = 16  # different ones in a conversation
WEB = re.compile(r"\s*https?:", re.I)
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")

READ = ((Sense.SIGHT, "pictures"), (Sense.HEARING, "sounds"))

Conversation = tuple[list[Message], ShownPictures]


def has_media(messages: Sequence[Message]) -> bool:
    """Whether there are pictures or sounds in them."""
    return bool(links(messages))


async def with_pictures(
    call: Call[Any], model: "TextModel", messages: Sequence[Message]
) -> Conversation:
    """The messages with marks for their pictures and sounds, and those. Without eyes, pictures stay
    as they are: they are refused later, or left out; so do sounds without ears.

    Raises InvalidRequest for a picture that can't be read, too many of them, or more tokens than
    the context has; UnsupportedParameter naming the models that see or hear; QueueFull.
    """
    if model.eyes is not None:
        refuse_other_parts(model, messages)
    found = links(messages)
    shown = await see(call, model, found, last_of_user(messages)) if found else NOTHING_SHOWN
    return marked(messages, shown.word, shown.unread) if shown.word else [*messages], shown


async def see(
    call: Call[Any], model: "TextModel", found: Sequence[Link], asked: int
) -> ShownPictures:
    """The pictures and sounds of these links; none of those that the model can't read. `asked`: the
    index of the user's last message. Raises the same as `with_pictures`."""
    can = senses(model)
    if unread := [link for link in found if link.sense not in can]:
        await refuse_unread(call, model, unread, asked)
    if model.eyes is None or len(unread) == len(found):
        return NOTHING_SHOWN
    if len(found) > MAX_PICTURES:
        raise InvalidRequest(
            f"There are {len(found)} pictures and sounds in the messages; at most {MAX_PICTURES} "
            "are read. Send fewer.",
            "messages",
        )
    check_fetched(found, is_allowed=call.runtime.settings.fetch_images)
    room = model.context_length - 1
    seen: list[SeenPicture | None] = []
    end_s = time.monotonic() + FETCH_LIMIT_S
    for link in found:
        if link.sense not in can:
            seen.append(None)
            continue
        fetched = call.store(FetchedPictures) if WEB.match(link.image.url) else None
        if fetched:
            rest_s = end_s - time.monotonic()
            data = await fetched.get(call.caller, link.image.url, link.path, rest_s)
        else:
            data = await call.threads.pictures_in.run(picture_bytes, link)
        with call.encoding():
            if link.is_sound:
                one = await model.eyes.hear(data, room, link.path, client=call.caller)
            else:
                max_side = LOW_SIDE if link.image.detail == "low" else None
                one = await model.eyes.see(data, room, link.path, max_side, client=call.caller)
        if fetched:
            fetched.keep(call.caller, link.image.url, data)
        seen.append(one)
        room -= one.num_tokens
    return ShownPictures(new_word(), seen)


def refuse_other_parts(model: "TextModel", messages: Sequence[Message]) -> None:
    """Raises InvalidRequest for a part of the user's last message that has no picture or sound
    though it says so, UnsupportedParameter for one of another type. `model` sees or hears."""
    asked = last_of_user(messages)
    content = messages[asked].content if asked >= 0 else None
    for index, part in enumerate(content if isinstance(content, list) else ()):
        path = f"messages[{asked}].content[{index}]"
        if part.field("user") or link_of(part, path):
            continue
        if part.type in PICTURE_TYPES:
            raise InvalidRequest(
                f"{path} is of type {part.type} and has no picture: send it as image_url, a data "
                "URL such as data:image/png;base64,...",
                path,
            )
        if part.type in SOUND_TYPES:
            raise InvalidRequest(
                f"{path} is of type {part.type} and has no sound: send it as input_audio, with "
                "the file's base64 as data.",
                path,
            )
        reads = [name for sense, name in READ if sense in senses(model)]
        raise UnsupportedParameter(
            f"{model.name} reads texts, {' and '.join(reads)}; a content part of type "
            f"{part.type!r} can't be read. Send its content as text.",
            path,
        )


def senses(model: "TextModel") -> set[Sense]:
    """What a loaded model reads besides text."""
    if model.eyes is None:
        return set()
    return {
        sense
        for sense, has in ((Sense.SIGHT, model.eyes.sees), (Sense.HEARING, model.eyes.hears))
        if has
    }


def check_fetched(found: Sequence[Link], *, is_allowed: bool) -> None:
    """Raises InvalidRequest if pictures would have to be fetched that may not be."""
    named = [link for link in found if WEB.match(link.image.url)]
    if named and not is_allowed:
        raise InvalidRequest(
            f"{named[0].path} names its picture by a URL, and this server fetches none for its "
            "clients: send a data URL such as data:image/png;base64,..., or let its operator set "
            "fetch_images = true under [server] in models.toml.",
            named[0].path,
        )
    if len({link.image.url for link in named}) > MAX_FETCHED:
        raise InvalidRequest(
            f"The messages name more than {MAX_FETCHED} pictures by URLs. Send the others as data "
            "URLs.",
            "messages",
        )


def picture_bytes(link: Link) -> bytes:
    """The bytes of a data URL, or of base64 alone, as Ollama's clients send it. Raises
    InvalidRequest."""
    url = link.image.url.lstrip()
    head = DATA_URL.match(url)
    if head is None and (scheme := SCHEME.match(url)):
        raise InvalidRequest(
            f"{link.path} has the URL of a picture ({scheme[0]}...), and only data URLs such as "
            "data:image/png;base64,... are read.",
            link.path,
        )
    try:
        return decode_base64(url, head.end() if head else 0)
    except ValueError as error:  # binascii.Error, or non-ASCII characters
        raise InvalidRequest(f"{link.path} is not valid base64: {error}.", link.path) from None


async def refuse_unread(
    call: Call[Any], model: "TextModel", unread: Sequence[Link], asked: int
) -> None:
    """Raises UnsupportedParameter if the user's last message has a picture or a sound that the
    model can't read, unless it reads text only and no other model here can."""
    own = re.compile(rf"messages\[{asked}\]\.content\[\d+\]")  # not those in a tool's result
    if link := next((link for link in unread if own.fullmatch(link.path)), None):
        await refuse_link(call, model, link)


async def refuse_link(call: Call[Any], model: "TextModel", link: Link) -> None:
    """Raises UnsupportedParameter for a picture or a sound that the model can't read, unless it
    reads text only and no other model here can."""
    sense, what, name = link.sense, "sound" if link.is_sound else "picture", model.name
    names = await call.threads.files.run(models_with, call.models.catalog, sense)
    if name in names:  # loaded with safer settings, or its projector can't be used
        raise UnsupportedParameter(
            f"{name} is loaded without its projector, for a reason that the server's log tells, "
            f"and can't {sense.verb} the {what} in {link.path}. Send the message as text.",
            link.path,
        )
    loaded = call.runtime.loaded_text_models()
    names = [other for other in names if other not in loaded or sense in senses(loaded[other])]
    reads = f"takes no {what}s" if senses(model) else "takes text only"
    if names:
        raise UnsupportedParameter(
            f"{name} {reads} and can't {sense.verb} the {what} in {link.path}. Send it to a model "
            f"that {sense.verb}s: {', '.join(names[:MAX_NAMED])}.",
            link.path,
        )
    if senses(model):
        raise UnsupportedParameter(
            f"{name} {reads} and can't {sense.verb} the {what} in {link.path}, and neither can "
            "another model here. Send the message without it.",
            link.path,
        )


def models_with(catalog: Catalog, sense: Sense) -> list[str]:
    """Reads folder listings and headers."""
    return [
        name
        for name, entry in catalog.entries.items()
        if isinstance(entry, TextModelEntry)
        and (path := entry.projector)
        and sense in senses_of(path)
    ]


class Reads(NamedTuple):
    """Whether a model may see or hear; if not, a sentence about those that do, "" if none does."""

    media: bool
    others: str = ""


TEXT_ONLY = Reads(media=False)


def read_by(catalog: Catalog, name: str) -> Reads:
    """What the model reads, which need not be loaded. Reads folder listings and headers;
    `TEXT_ONLY` for a model that there isn't."""
    try:
        _, entry = catalog.resolve(name)
    except ModelNotFound:
        return TEXT_ONLY
    if isinstance(entry, TextModelEntry) and entry.projector is not None:
        return Reads(media=True)
    others = [(sense, models_with(catalog, sense)) for sense in Sense]
    return Reads(
        media=False,
        others="".join(
            f" Here {', '.join(names[:MAX_NAMED])} can {sense.verb}."
            for sense, names in others
            if names
        ),
    )
