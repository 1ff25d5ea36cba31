"""What Ollama's routes have in common: Ollama's spelling of models' names, and `keep_alive`.

Their bodies need no Content-Type: Ollama does not look at it, and its documents use curl without.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from localinfra.api.call import Call
from localinfra.api.http.managing import check_may_manage
from localinfra.api.ollama.answer import OllamaReply, now
from localinfra.api.ollama.options import OllamaFields
from localinfra.errors import FilesAbsent, Forbidden, ModelNotFound
from localinfra.leases import Leases

if TYPE_CHECKING:
    from localinfra.embed.model import EmbeddingModel
    from localinfra.text.model import TextModel  # both bring numpy, which only loaded models need

LATEST = ":latest"  # added by clients to names without a tag
HUBS = ("hf.co/", "huggingface.co/")


async def served_name(models: Leases, given: str) -> str:
    """The name by which the model is known here; the given one if none is."""
    await models.seek(given)
    known = models.catalog.own_name
    return next((name for name in spellings(given) if known(name) is not None), given)


def spellings(given: str) -> Iterator[str]:
    yield given
    yield given.removesuffix(LATEST)
    for hub in HUBS:
        if given.startswith(hub):
            yield given.removeprefix(hub)
            yield given.removeprefix(hub).removesuffix(LATEST)


async def text_model(call: Call[OllamaFields], route: str) -> "TextModel":
    """The model, loaded, and kept in memory as the request wants. Raises the errors of `Leases`."""
    name = await served_name(call.models, call.body.model)
    with renamed_errors(call.body.model):
        model = await call.models.text(name, route)
    keep(call, model.name)
    return model


async def embedding_model(call: Call[OllamaFields], route: str) -> "EmbeddingModel":
    """The same for vectors."""
    name = await served_name(call.models, call.body.model)
    with renamed_errors(call.body.model):
        model = await call.models.embedding(name, route)
    keep(call, model.name)
    return model


@contextlib.contextmanager
def renamed_errors(given: str) -> Iterator[None]:
    """An unknown model and one whose files are absent are one to Ollama's clients, which look for
    404 and these words, and then pull."""
    try:
        yield
    except (ModelNotFound, FilesAbsent) as error:
        message = f"model '{given[:200]}' not found, try pulling it first. {error.message}"
        raise ModelNotFound(message, "model") from None


def keep(call: Call[OllamaFields], name: str) -> None:
    """Applies `keep_alive` to a loaded model, if the caller may unload models."""
    if call.body.keep_alive is None:
        return
    try:
        check_may_manage(call.request)
    except Forbidden:
        call.report_ignored(["keep_alive"])
        return
    call.runtime.keep(name, call.body.kept_s)


async def load_or_unload(call: Call[OllamaFields], route: str) -> OllamaReply:
    """What a request for text without a prompt asks for: to unload the model once its requests have
    ended, with a `keep_alive` of 0, else to load it. Raises Forbidden and ModelNotFound."""
    if call.body.kept_s != 0:
        name, reason = (await text_model(call, route)).name, "load"
    else:
        check_may_manage(call.request)
        known, reason = await served_name(call.models, call.body.model), "unload"
        with renamed_errors(call.body.model):
            name, _ = call.models.catalog.find(known)
        await call.runtime.unload(name)
    return OllamaReply(model=name, created_at=now(), done=True, done_reason=reason)
