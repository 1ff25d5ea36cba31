"""The kinds of model, one row each: the entry that describes a model, and the loader.

The libraries that a kind needs are imported when its first model is loaded.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast, runtime_checkable

from localinfra import machine
from localinfra.config.settings import ServerSettings
from localinfra.footprint import CPU, Footprint, Room
from localinfra.journal import Mark
from localinfra.models.entries import (
    EmbeddingModelEntry,
    EncoderEntry,
    ImageModelEntry,
    ModelDetails,
    ModelEntry,
    RerankModelEntry,
    TextModelEntry,
)
from localinfra.models.seats import LoadPlan
from localinfra.prefixes.shelves import Shelves
from localinfra.watchdog import Pulse

if TYPE_CHECKING:
    from localinfra.embed.model import EmbeddingModel, RerankModel
    from localinfra.image.model import ImageModel
    from localinfra.text.model import TextModel


class Worker(Protocol):
    """What computes a model's answers, on threads of its own. Event loop only."""

    mark: Mark  # where its threads note what they do

    @property
    def num_waiting(self) -> int:
        """Queue length: choices for a text model, requests for others."""

    @property
    def fault(self) -> str | None:
        """Why it stopped without being closed; None while it serves."""

    @property
    def is_device_lost(self) -> bool:
        """Whether it stopped since its GPU computes nothing more for this process."""

    @property
    def pulse(self) -> Pulse:
        """The progress of its threads."""

    def abandon(self, reason: str) -> None:
        """Gives up threads that hang, and fails the requests that wait for them."""


class LoadedModel(Protocol):
    """The interface of every kind of model. Event loop only, except `close`."""

    footprint: Footprint  # the memory it takes, measured when it was loaded

    @property
    def entry(self) -> ModelEntry: ...

    @property
    def worker(self) -> Worker: ...

    @property
    def details(self) -> ModelDetails:
        """Limits and sizes for clients, known since it was loaded."""

    @property
    def is_busy(self) -> bool:
        """Whether it has any work."""

    def close(self) -> None: ...


@runtime_checkable
class MovableModel(Protocol):
    """A loaded model whose weights can be moved to main memory and back in less time than it takes
    to load them. Any thread; blocks."""

    @property
    def parked(self) -> Footprint | None:
        """What it takes there; None: it can't be moved."""

    def park(self) -> None:
        """Moves the weights to main memory, where it can't compute."""

    def wake(self) -> None:
        """Moves them back."""


@runtime_checkable
class SensingModel(Protocol):
    """A loaded model with a thread that encodes pictures and sounds, beside its worker's. Event
    loop only."""

    @property
    def encoder_pulse(self) -> Pulse:
        """The thread's progress."""

    def abandon_encoder(self, reason: str) -> None:
        """Gives up the thread, and fails the requests that wait for it."""


def parked(model: LoadedModel) -> Footprint | None:
    return model.parked if isinstance(model, MovableModel) else None


def park(model: LoadedModel) -> None:
    assert isinstance(model, MovableModel)
    model.park()


def wake(model: LoadedModel) -> None:
    assert isinstance(model, MovableModel)
    model.wake()


T = TypeVar("T")
E_co = TypeVar("E_co", bound=ModelEntry, covariant=True)
M_co = TypeVar("M_co", bound=LoadedModel, covariant=True)


def again_if_disturbed(work: Callable[[], T]) -> T:
    try:
        return work()
    except SystemError as error:
        # Python 3.11 counts the depth of syntax trees in all threads together: two threads that
        # parse source at once, as some libraries do on import, can make each other fail.
        if "AST constructor" not in str(error):
            raise
        return work()


@dataclass(frozen=True)
class Kind(Generic[E_co, M_co]):
    """A row: the kind's entry struct, the planner of its models and their loader."""

    entry: type[E_co]
    planner: Callable[[str, E_co, Room], LoadPlan]
    loader: Callable[[str, E_co, ServerSettings, LoadPlan | None, Shelves], M_co]

    def plan(self, name: str, entry: ModelEntry, room: Room) -> LoadPlan:
        """How the model will be loaded; `room` is for all models together. Blocks for seconds, as
        it imports the kind's libraries. Raises ModelUnavailable with the remedy."""
        assert isinstance(entry, self.entry)
        planner, own = self.planner, entry
        return again_if_disturbed(lambda: planner(name, own, room))

    def load(
        self,
        name: str,
        entry: ModelEntry,
        settings: ServerSettings,
        plan: LoadPlan | None,
        shelves: Shelves,
    ) -> M_co:
        """Blocks for seconds. Raises ModelUnavailable with the remedy."""
        assert isinstance(entry, self.entry)
        loader, own = self.loader, entry
        return again_if_disturbed(lambda: loader(name, own, settings, plan, shelves))

    def own(self, model: LoadedModel) -> M_co:
        """Casts a model that `load` returned to its type: the pool holds models of all kinds."""
        return cast("M_co", model)


def plan_text(name: str, entry: TextModelEntry, room: Room) -> LoadPlan:
    from localinfra.text.loading import text_plan

    return text_plan(name, entry, room)


def load_text(
    name: str,
    entry: TextModelEntry,
    settings: ServerSettings,
    plan: LoadPlan | None,
    shelves: Shelves,
) -> "TextModel":
    from localinfra.text.loading import load_text_model
    from localinfra.text.placing import TextPlan

    found = plan if isinstance(plan, TextPlan) else None
    return load_text_model(
        name,
        entry,
        settings.max_queue,
        share_prefixes=settings.share_prefixes,
        max_request_tokens=settings.max_request_tokens,
        plan=found,
        shelves=shelves,
    )


def plan_encoder(name: str, entry: EncoderEntry, room: Room) -> LoadPlan:
    from localinfra.embed.loading import encoder_plan

    return encoder_plan(name, entry, room)


def load_embedder(
    name: str, entry: EmbeddingModelEntry, settings: ServerSettings, *_: object
) -> "EmbeddingModel":
    from localinfra.embed.loading import load_embedding_model

    return load_embedding_model(name, entry, settings.max_queue)


def load_reranker(
    name: str, entry: RerankModelEntry, settings: ServerSettings, *_: object
) -> "RerankModel":
    from localinfra.embed.loading import load_rerank_model

    return load_rerank_model(name, entry, settings.max_queue)


def plan_images(name: str, entry: ImageModelEntry, room: Room) -> LoadPlan:
    from localinfra.image.loading import image_plan

    return image_plan(name, entry, room)


def load_images(
    name: str, entry: ImageModelEntry, settings: ServerSettings, *_: object
) -> "ImageModel":
    from localinfra.image.loading import load_image_model

    return load_image_model(name, entry, settings.max_queue, settings.max_megapixel_steps)


TEXT = Kind(TextModelEntry, plan_text, load_text)
EMBEDDING = Kind(EmbeddingModelEntry, plan_encoder, load_embedder)
RERANK = Kind(RerankModelEntry, plan_encoder, load_reranker)
IMAGE = Kind(ImageModelEntry, plan_images, load_images)

ROWS: tuple[Kind[ModelEntry, LoadedModel], ...] = (TEXT, EMBEDDING, RERANK, IMAGE)
BY_ENTRY = {kind.entry: kind for kind in ROWS}


def imported(name: str) -> Any:
    """The module, if some thread has imported it to its end."""
    module = sys.modules.get(name)
    return None if getattr(getattr(module, "__spec__", None), "_initializing", False) else module


def free_memory() -> dict[str, int]:
    """Bytes that are free now: of main memory where the system says it, and of the GPUs that the
    libraries see which are imported already. Others take seconds to import."""
    free: dict[str, int] = {}
    if torch := imported("torch"):
        from localinfra.image.placement import torch_free

        free |= torch_free(torch)
    if llama := imported("localinfra.llama.build_info"):
        free |= llama.free_memory()
    if (available := machine.available_memory()) is not None:
        free[CPU] = available
    return free


def held_memory() -> Footprint:
    """What this process holds in all, as far as it can be measured by its growth."""
    held: dict[str, int] = {}
    if torch := imported("torch"):
        from localinfra.image.placement import torch_allocated

        held |= torch_allocated(torch)
    if (own := machine.own_memory()) is not None:
        held[CPU] = own
    return Footprint(held)


def trim_devices() -> None:
    """Gives the memory of GPUs that a model has left back to them."""
    if torch := imported("torch"):
        from localinfra.image.placement import torch_trim

        torch_trim(torch)
