"""The one file that knows all parts: settings → catalogue, pool, loaders; closes them in order."""

import asyncio
import contextlib
import faulthandler
import logging
import sys
import tempfile
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, TypeVar

from localinfra import garbage
from localinfra.cache import sweep_if_free
from localinfra.config import sizes
from localinfra.config.settings import ServerSettings
from localinfra.errors import ApiError
from localinfra.executor import in_daemon_thread
from localinfra.kinds import BY_ENTRY, EMBEDDING, IMAGE, RERANK, TEXT, Kind, LoadedModel
from localinfra.machine import cache_folder
from localinfra.models.catalog import Catalog
from localinfra.models.entries import ModelEntry
from localinfra.models.pool import LoadState, Pool
from localinfra.prefixes.shelves import Shelves
from localinfra.watchdog import Watchdog

if TYPE_CHECKING:
    from localinfra.embed.model import EmbeddingModel, RerankModel
    from localinfra.image.model import ImageModel
    from localinfra.text.model import TextModel

logger = logging.getLogger(__name__)

E = TypeVar("E", bound=ModelEntry)
M = TypeVar("M", bound=LoadedModel)

# The engine's thread needs the GIL back between two steps. By default another thread may keep it
# for 5 ms, as long as a whole step of a small model.
SWITCH_INTERVAL_S = 0.0005
IDLE_CHECK_S = 1.0
PULSE_CHECK_S = 1.0

# The next request reloads a broken model. A load balancer that watches `/health` sends none until
# the model is back, so it is reloaded without a request after this long.
REVIVE_AFTER_S = 10.0
MEASURED = ("encoders", "optimized")  # folders of the cache
LAST_WRITES_S = 3.0  # for prefixes that are not in files yet, at the end
MAX_HANGS = 3  # per model; each leaves a thread behind that may keep its memory and a core


class Runtime:
    """Everything one server process owns. Event loop only: create it and `close` it there."""

    def __init__(self, settings: ServerSettings, catalog: Catalog):
        self.settings = settings
        self.catalog = catalog
        self.started_at = int(time.time())
        disk_bytes = sizes.num_bytes(settings.disk_cache) if settings.disk_cache else 0
        self.prefixes = Shelves(cache_folder("prefixes"), disk_bytes)
        self._models: Pool[LoadedModel] = Pool(
            self._load,
            self._release,
            fault=lambda model: model.worker.fault,
            is_busy=lambda model: model.is_busy,
        )
        self._watchdogs: dict[str, Watchdog] = {}
        self._num_hangs: Counter[str] = Counter()
        self._preloads: set[asyncio.Task[None]] = set()
        self._watches: list[asyncio.Task[None]] = []
        self._closing: asyncio.Task[None] | None = None
        sys.setswitchinterval(SWITCH_INTERVAL_S)

    def _load(self, name: str) -> LoadedModel:
        """Also imports the libraries of a kind, with its first model."""
        model = self._load_kind(name, self.catalog.entries[name])
        garbage.freeze()
        return model

    def _release(self, model: LoadedModel) -> None:
        model.close()
        garbage.collect()

    def _load_kind(self, name: str, entry: ModelEntry) -> LoadedModel:
        return BY_ENTRY[type(entry)].load(name, entry, self.settings, self.prefixes)

    async def load(self, name: str) -> None:
        """Loads the model, if it is not loaded yet. Raises ModelUnavailable."""
        await self._models.get(name)

    async def get(self, kind: Kind[E, M], name: str, route: str) -> M:
        """The model a request asks for, loaded. Raises ModelNotFound, InvalidRequest for a model
        of another kind, and ModelUnavailable."""
        found, _ = self.catalog.resolve_as(kind.entry, name, route)
        return kind.own(await self._models.get(found))

    async def text_model(self, name: str, route: str) -> "TextModel":
        return await self.get(TEXT, name, route)

    async def embedding_model(self, name: str, route: str) -> "EmbeddingModel":
        return await self.get(EMBEDDING, name, route)

    async def rerank_model(self, name: str, route: str) -> "RerankModel":
        return await self.get(RERANK, name, route)

    async def image_model(self, name: str | None, default: str, route: str) -> "ImageModel":
        """Without a name: the default, or the first image model if that is not served."""
        if name is None:
            name = default if default in self.catalog.names_by_id else self._first(IMAGE) or default
        return await self.get(IMAGE, name, route)

    def _first(self, kind: Kind[ModelEntry, LoadedModel]) -> str | None:
        entries = self.catalog.entries.items()
        return next((name for name, entry in entries if isinstance(entry, kind.entry)), None)

    def state(self, name: str) -> LoadState:
        return self._models.state(name)

    def loaded(self) -> dict[str, LoadedModel]:
        return self._models.loaded()

    def loaded_of(self, kind: Kind[E, M]) -> dict[str, M]:
        """The loaded models of one kind."""
        entries = self.catalog.entries
        loaded = self._models.loaded().items()
        return {n: kind.own(model) for n, model in loaded if isinstance(entries[n], kind.entry)}

    def loaded_text_models(self) -> "dict[str, TextModel]":
        return self.loaded_of(TEXT)

    def loaded_encoders(self) -> "dict[str, EmbeddingModel | RerankModel]":
        return self.loaded_of(EMBEDDING) | self.loaded_of(RERANK)

    def start(self) -> None:
        """Starts loading the entries with `preload`; requests for them wait. Sweeps the cache of
        what interrupted measurements have left."""
        for folder in MEASURED:
            threading.Thread(
                target=sweep_if_free, args=(cache_folder(folder),), daemon=True
            ).start()
        for name, entry in self.catalog.entries.items():
            if entry.preload:
                self._start_preload(name)
        self._watches = [
            asyncio.create_task(watch()) for watch in (self._unload_idle, self._watch_models)
        ]

    def _start_preload(self, name: str) -> None:
        task = asyncio.create_task(self._preload(name))
        self._preloads.add(task)
        task.add_done_callback(self._preloads.discard)

    async def _preload(self, name: str) -> None:
        with contextlib.suppress(ApiError):  # logged by the pool; requests get it again
            await self._models.get(name)

    async def _unload_idle(self) -> None:
        """Unloads models that have been idle for as long as their entry says."""
        limits_s = {name: entry.unload_after_s for name, entry in self.catalog.entries.items()}
        while True:
            await asyncio.sleep(IDLE_CHECK_S)
            await self._models.unload_idle(limits_s)

    def faults(self) -> dict[str, str]:
        """Models that broke and are not back yet → why they broke."""
        self._models.check()
        return {name: fault.reason for name, fault in self._models.faults.items()}

    async def _watch_models(self) -> None:
        while True:
            await asyncio.sleep(PULSE_CHECK_S)
            try:
                self._give_up_hanging()
                self._models.check()
                self._revive()
            except Exception:  # a failed check must not end the watch
                logger.exception("the models could not be checked")

    def _give_up_hanging(self) -> None:
        """Abandons models that hang and loads them again: their threads can't be stopped."""
        max_checks = max(1, round(self.settings.watchdog_s / PULSE_CHECK_S))
        for name, model in self.loaded().items():
            dog = self._watchdogs.setdefault(name, Watchdog(max_checks))
            if not dog.stands_still(model.worker.pulse):
                continue
            del self._watchdogs[name]
            self._num_hangs[name] += 1
            logger.error("%s: its engine hangs. All threads:\n%s", name, stacks())
            reason = f"its engine made no step for {dog.num_checks * PULSE_CHECK_S:g} s"
            model.worker.abandon(reason)
            self._models.drop(name, reason, is_final=self._num_hangs[name] >= MAX_HANGS)

    def _revive(self) -> None:
        for name, fault in self._models.faults.items():
            if time.monotonic() - fault.since > REVIVE_AFTER_S:
                self._start_preload(name)

    async def close(self) -> None:
        """Ends all running work, with an error to its clients, and frees all models. Threads that
        do not end in time are left behind."""
        for watch in self._watches:
            watch.cancel()
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await self._closing

    async def _close(self) -> None:
        self.prefixes.is_ending = True
        await self._models.close()
        await in_daemon_thread(self.prefixes.close, LAST_WRITES_S, name="last prefixes")


def stacks() -> str:
    """The stack of every thread of this process."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()
