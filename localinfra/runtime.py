"""The one file that knows all parts: settings → catalogue, pool, loaders; closes them in order."""

import asyncio
import contextlib
import gc
import logging
import sys
import time
from typing import TYPE_CHECKING

from localinfra.config import ServerSettings
from localinfra.errors import ApiError
from localinfra.models.catalog import Catalog, TextModelEntry
from localinfra.models.pool import LoadState, Pool

if TYPE_CHECKING:
    from localinfra.text import TextModel

logger = logging.getLogger(__name__)

# Between two steps the engine's thread needs the interpreter back. By default whoever computes may
# keep it for 5 ms, a whole step of a small model.
SWITCH_INTERVAL_S = 0.0005


class Runtime:
    """Everything one server process holds. Event loop only; make it there and `close` it."""

    def __init__(self, settings: ServerSettings, catalog: Catalog):
        self.settings = settings
        self.catalog = catalog
        self.started_at = int(time.time())
        self._text_models: Pool[TextModel] = Pool(self._load_text, lambda model: model.close())
        self._preloads: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        sys.setswitchinterval(SWITCH_INTERVAL_S)

    def _load_text(self, name: str) -> "TextModel":
        from localinfra.loading import load_text_model  # llama.cpp is loaded with the first model

        entry = self.catalog.entries[name]
        assert isinstance(entry, TextModelEntry)
        model = load_text_model(name, entry, self.settings.max_queue)
        # Modules and vocabularies live on. Looking through them again with each full collection
        # stops all threads for 10 to 15 ms.
        gc.freeze()
        return model

    async def text_model(self, name: str, route: str) -> "TextModel":
        """The model a request asks for, loaded. Raises ModelNotFound, InvalidRequest for a model
        of another kind, and ModelUnavailable."""
        found, _ = self.catalog.resolve_text(name, route)
        return await self._text_models.get(found)

    def state(self, name: str) -> LoadState:
        return self._text_models.state(name)

    def loaded_text_models(self) -> "dict[str, TextModel]":
        return self._text_models.loaded()

    def preload(self) -> None:
        """Starts loading the entries that ask for it; requests meanwhile wait for them."""
        for name, entry in self.catalog.entries.items():
            if entry.preload and isinstance(entry, TextModelEntry):
                task = asyncio.create_task(self._preload(name))
                self._preloads.add(task)
                task.add_done_callback(self._preloads.discard)

    async def _preload(self, name: str) -> None:
        with contextlib.suppress(ApiError):  # logged by the pool; whoever asks is told again
            await self._text_models.get(name)

    async def close(self) -> None:
        """Ends what is running, with an error to whoever waits for it, and frees all models."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._text_models.close())
        await self._closing
