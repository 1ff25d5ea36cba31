"""The kinds of model, one row each: the entry that describes a model, and the loader.

The libraries that a kind needs are imported when its first model is loaded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

from localinfra.config.settings import ServerSettings
from localinfra.models.entries import (
    EmbeddingModelEntry,
    ImageModelEntry,
    ModelDetails,
    ModelEntry,
    RerankModelEntry,
    TextModelEntry,
)
from localinfra.prefixes.shelves import Shelves
from localinfra.watchdog import Pulse

if TYPE_CHECKING:
    from localinfra.embed.model import EmbeddingModel, RerankModel
    from localinfra.image.model import ImageModel
    from localinfra.text.model import TextModel


class Worker(Protocol):
    """What computes a model's answers, on threads of its own. Event loop only."""

    @property
    def num_waiting(self) -> int:
        """Queue length: choices for a text model, requests for others."""

    @property
    def fault(self) -> str | None:
        """Why it stopped without being closed; None while it serves."""

    @property
    def pulse(self) -> Pulse:
        """The progress of its threads."""

    def abandon(self, reason: str) -> None:
        """Gives up threads that hang, and fails the requests that wait for them."""


class LoadedModel(Protocol):
    """The interface of every kind of model. Event loop only, except `close`."""

    @property
    def worker(self) -> Worker: ...

    @property
    def details(self) -> ModelDetails:
        """Limits and sizes for clients, known since it was loaded."""

    @property
    def is_busy(self) -> bool:
        """Whether it has any work."""

    def close(self) -> None: ...


E_co = TypeVar("E_co", bound=ModelEntry, covariant=True)
M_co = TypeVar("M_co", bound=LoadedModel, covariant=True)


@dataclass(frozen=True)
class Kind(Generic[E_co, M_co]):
    """A row: the kind's entry struct, and the loader of its models."""

    entry: type[E_co]
    loader: Callable[[str, E_co, ServerSettings, Shelves], M_co]

    def load(
        self, name: str, entry: ModelEntry, settings: ServerSettings, shelves: Shelves
    ) -> M_co:
        """Blocks for seconds. Raises ModelUnavailable with the remedy."""
        assert isinstance(entry, self.entry)
        try:
            return self.loader(name, entry, settings, shelves)
        except SystemError as error:
            # Python 3.11 counts the depth of syntax trees in all threads together: two threads that
            # parse source at once, as some libraries do on import, can make each other fail.
            if "AST constructor" not in str(error):
                raise
            return self.loader(name, entry, settings, shelves)

    def own(self, model: LoadedModel) -> M_co:
        """Casts a model that `load` returned to its type: the pool holds models of all kinds."""
        return cast("M_co", model)


def load_text(
    name: str, entry: TextModelEntry, settings: ServerSettings, shelves: Shelves
) -> "TextModel":
    from localinfra.text.loading import load_text_model

    share = settings.share_prefixes
    return load_text_model(name, entry, settings.max_queue, share_prefixes=share, shelves=shelves)


def load_embedder(
    name: str, entry: EmbeddingModelEntry, settings: ServerSettings, _: Shelves
) -> "EmbeddingModel":
    from localinfra.embed.loading import load_embedding_model

    return load_embedding_model(name, entry, settings.max_queue)


def load_reranker(
    name: str, entry: RerankModelEntry, settings: ServerSettings, _: Shelves
) -> "RerankModel":
    from localinfra.embed.loading import load_rerank_model

    return load_rerank_model(name, entry, settings.max_queue)


def load_images(
    name: str, entry: ImageModelEntry, settings: ServerSettings, _: Shelves
) -> "ImageModel":
    from localinfra.image.loading import load_image_model

    return load_image_model(name, entry, settings.max_queue)


TEXT = Kind(TextModelEntry, load_text)
EMBEDDING = Kind(EmbeddingModelEntry, load_embedder)
RERANK = Kind(RerankModelEntry, load_reranker)
IMAGE = Kind(ImageModelEntry, load_images)

ROWS: tuple[Kind[ModelEntry, LoadedModel], ...] = (TEXT, EMBEDDING, RERANK, IMAGE)
BY_ENTRY = {kind.entry: kind for kind in ROWS}
