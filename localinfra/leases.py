"""The models of one request: found by name, loaded, and kept in memory until it has ended."""

from typing import TYPE_CHECKING, TypeVar

from localinfra.keys.meter import Permit
from localinfra.kinds import EMBEDDING, IMAGE, RERANK, TEXT, Kind, LoadedModel
from localinfra.models.catalog import Catalog, misplaced
from localinfra.models.entries import ModelEntry
from localinfra.models.seats import Lease
from localinfra.runtime import Runtime

if TYPE_CHECKING:
    from localinfra.embed.model import EmbeddingModel, RerankModel
    from localinfra.image.model import ImageModel
    from localinfra.text.model import TextModel

E = TypeVar("E", bound=ModelEntry)
M = TypeVar("M", bound=LoadedModel)


class Leases:
    """Event loop only. Every method that gets a model raises ModelNotFound, InvalidRequest for a
    model of another kind, ModelUnavailable, RateLimited, and QueueFull."""

    def __init__(self, runtime: Runtime, permit: Permit | None = None):
        """`permit`: what the request may use."""
        self._runtime = runtime
        self._permit = permit or Permit()
        self._leases: dict[str, Lease[LoadedModel]] = {}

    @property
    def catalog(self) -> Catalog:
        """The models that the request may use: it learns of no others."""
        return self._runtime.catalog.only(self._permit.models)

    async def seek(self, name: str) -> None:
        """Looks for an unknown model, whose files may have just come. One that the request may not
        use is as unknown: how long the answer takes must not tell that it is there."""
        if self.catalog.own_name(name) is None:
            await self._runtime.refresh()

    async def get(self, kind: Kind[E, M], name: str, route: str) -> M:
        """The model a request asks for, loaded."""
        found = await self.name(kind, name, route)
        if found not in self._leases:
            # Another model than before would wait for memory that this request itself may keep.
            assert not self._leases, "a request uses one model"
            self._permit.enter()
            lease = self._leases[found] = await self._runtime.lease(found)
            if not isinstance(lease.model.entry, kind.entry):  # a reload has changed it meanwhile
                raise misplaced(found, lease.model.entry, route)
        return kind.own(self._leases[found].model)

    async def name(self, kind: Kind[E, M], name: str, route: str) -> str:
        """That of the model that `get` would load."""
        await self.seek(name)
        return self.catalog.resolve_as(kind.entry, name, route)[0]

    async def text(self, name: str, route: str) -> "TextModel":
        return await self.get(TEXT, name, route)

    async def embedding(self, name: str, route: str) -> "EmbeddingModel":
        return await self.get(EMBEDDING, name, route)

    async def rerank(self, name: str, route: str) -> "RerankModel":
        return await self.get(RERANK, name, route)

    async def image(self, name: str | None, default: str, route: str) -> "ImageModel":
        if name is None:
            name = self.catalog.image_model(default)
        return await self.get(IMAGE, name, route)

    def release(self) -> None:
        """The request has ended."""
        for lease in self._leases.values():
            lease.release()
        self._leases.clear()
