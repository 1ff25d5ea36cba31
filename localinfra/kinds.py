"""The kinds of model, a row for each: the entry that describes one, and how it is loaded.

The libraries that a kind needs come with its first model, so they are imported when it is loaded.
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
from localinfra.watchdog import Pulse

if TYPE_CHECKING:
    from localinfra.embed.model import EmbeddingModel, RerankModel
    from localinfra.image.model import ImageModel
    from localinfra.text.model import TextModel


class LoadedModel(Protocol):
    """What every kind of model can say and do. Event loop only, but for `close`."""

    @property
    def details(self) -> ModelDetails:
        """What clients can plan with, now that it is loaded."""

    @property
    def num_waiting(self) -> int:
        """What waits for its turn: choices of a text model, requests of others."""

    @property
    def is_busy(self) -> bool:
        """Whether it works for anybody."""

    @property
    def fault(self) -> str | None:
        """Why it can't go on; None while it can."""

    @property
    def pulse(self) -> Pulse:
        """What its threads are at."""

    def abandon(self, reason: str) -> None:
        """Gives up threads that hang; whoever waits is told."""

    def close(self) -> None: ...


E_co = TypeVar("E_co", bound=ModelEntry, covariant=True)
M_co = TypeVar("M_co", bound=LoadedModel, covariant=True)


@dataclass(frozen=True)
class Kind(Generic[E_co, M_co]):
    """A row: the struct of its entries, and what makes a model of one."""

    entry: type[E_co]
    loader: Callable[[str, E_co, ServerSettings], M_co]

    def load(self, name: str, entry: ModelEntry, settings: ServerSettings) -> M_co:
        """Blocks, for seconds. Raises ModelUnavailable with what to do."""
        assert isinstance(entry, self.entry)
        try:
            return self.loader(name, entry, settings)
        except SystemError as error:
            # Python 3.11 counts how deep syntax trees are for all threads together: two that parse
            # source at once, as libraries do while they are imported, can trip over each other.
            if "AST constructor" not in str(error):
                raise
            return self.loader(name, entry, settings)

    def own(self, model: LoadedModel) -> M_co:
        """What `load` has made, by its type again: the pool holds models of all kinds."""
        return cast("M_co", model)


def load_text(name: str, entry: TextModelEntry, settings: ServerSettings) -> "TextModel":
    from localinfra.text.loading import load_text_model

    return load_text_model(name, entry, settings.max_queue, share_prefixes=settings.share_prefixes)


def load_embedder(
    name: str, entry: EmbeddingModelEntry, settings: ServerSettings
) -> "EmbeddingModel":
    from localinfra.embed.loading import load_embedding_model

    return load_embedding_model(name, entry, settings.max_queue)


def load_reranker(name: str, entry: RerankModelEntry, settings: ServerSettings) -> "RerankModel":
    from localinfra.embed.loading import load_rerank_model

    return load_rerank_model(name, entry, settings.max_queue)


def load_images(name: str, entry: ImageModelEntry, settings: ServerSettings) -> "ImageModel":
    from localinfra.image.loading import load_image_model

    return load_image_model(name, entry, settings.max_queue)


TEXT = Kind(TextModelEntry, load_text)
EMBEDDING = Kind(EmbeddingModelEntry, load_embedder)
RERANK = Kind(RerankModelEntry, load_reranker)
IMAGE = Kind(ImageModelEntry, load_images)

ROWS: tuple[Kind[ModelEntry, LoadedModel], ...] = (TEXT, EMBEDDING, RERANK, IMAGE)
BY_ENTRY = {kind.entry: kind for kind in ROWS}
