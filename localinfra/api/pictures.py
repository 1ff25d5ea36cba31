"""Pictures in a request's conversation: links → what a model that sees reads of them."""

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from localinfra.api.call import Call
from localinfra.api.fetched import FETCH_LIMIT_S, FetchedPictures
from localinfra.api.http.encoded import decode_base64
from localinfra.chat.messages import Message, last_of_user
from localinfra.errors import InvalidRequest, ModelNotFound, UnsupportedParameter
from localinfra.models.catalog import Catalog
from localinfra.models.entries import TextModelEntry
from localinfra.text.showing import NOTHING_SHOWN, Link, ShownPictures, links, marked, new_word

if TYPE_CHECKING:
    from localinfra.text.model import TextModel  # imports numpy, which only a loaded model needs

MAX_PICTURES = 256  # in a conversation
LOW_SIDE = 512  # pixels of the longer side with `detail` low, as in OpenAI's API
DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.I)
MAX_FETCHED = 16  # different ones in a conversation
WEB = re.compile(r"\s*https?:", re.I)
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")

Conversation = tuple[list[Message], ShownPictures]


async def with_pictures(
    call: Call[Any], model: "TextModel", messages: Sequence[Message]
) -> Conversation:
    """The messages with marks for their pictures, and the pictures. Without eyes, the messages as
    they are: they are refused later, or their pictures left out.

    Raises InvalidRequest for a picture that can't be read, too many of them, or more tokens than
    the context has; UnsupportedParameter naming the models that see; QueueFull.
    """
    found = links(messages)
    shown = await see(call, model, found, last_of_user(messages)) if found else NOTHING_SHOWN
    return marked(messages, shown.word) if shown.word else [*messages], shown


async def see(
    call: Call[Any], model: "TextModel", found: Sequence[Link], asked: int
) -> ShownPictures:
    """The pictures of these links; none of a model without eyes. `asked`: the index of the user's
    last message. Raises the same as `with_pictures`."""
    if model.eyes is None:
        await refuse_blind(call, model.name, found, asked)
        return NOTHING_SHOWN
    if len(found) > MAX_PICTURES:
        raise InvalidRequest(
            f"There are {len(found)} pictures in the messages; at most {MAX_PICTURES} are read. "
            "Send fewer.",
            "messages",
        )
    check_fetched(found, is_allowed=call.runtime.settings.fetch_images)
    room, seen = model.context_length - 1, []
    end_s = time.monotonic() + FETCH_LIMIT_S
    for link in found:
        if WEB.match(link.image.url):
            fetched, rest_s = call.store(FetchedPictures), end_s - time.monotonic()
            data = await fetched.get(call.caller, link.image.url, link.path, rest_s)
        else:
            data = await call.threads.pictures_in.run(picture_bytes, link)
        max_side = LOW_SIDE if link.image.detail == "low" else None
        seen.append(await model.eyes.see(data, room, link.path, max_side, client=call.caller))
        room -= seen[-1].num_tokens
    return ShownPictures(new_word(), seen)


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


async def refuse_blind(call: Call[Any], name: str, found: Sequence[Link], asked: int) -> None:
    """Raises UnsupportedParameter if the user's last message has a picture, and some model here
    sees."""
    own = re.compile(rf"messages\[{asked}\]\.content\[\d+\]")  # not those in a tool's result
    path = next((link.path for link in found if own.fullmatch(link.path)), None)
    if path is None:
        return
    names = await call.threads.files.run(seeing_models, call.models.catalog)
    if name in names:  # loaded with safer settings, or its projector can't be used
        raise UnsupportedParameter(
            f"{name} is loaded without its projector, for a reason that the server's log tells, "
            f"and can't see the picture in {path}. Send the message as text.",
            path,
        )
    loaded = call.runtime.loaded_text_models()
    names = [other for other in names if other not in loaded or loaded[other].eyes]
    if names:
        raise UnsupportedParameter(
            f"{name} takes text only and can't see the picture in {path}. Send it to a model that "
            f"sees: {', '.join(names[:10])}.",
            path,
        )


def has_projector(catalog: Catalog, name: str) -> bool:
    """Whether a model may see. Reads folder listings; False for a model that there isn't."""
    try:
        _, entry = catalog.resolve(name)
    except ModelNotFound:
        return False
    return isinstance(entry, TextModelEntry) and entry.projector is not None


def seeing_models(catalog: Catalog) -> list[str]:
    """Reads folder listings."""
    return [
        name
        for name, entry in catalog.entries.items()
        if isinstance(entry, TextModelEntry) and entry.projector
    ]
