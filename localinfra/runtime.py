"""The one file that knows all parts: settings → catalogue, pool, loaders; closes them in order."""

import asyncio
import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import TYPE_CHECKING, TypeVar

import msgspec

from localinfra import garbage
from localinfra.cache import sweep_if_free
from localinfra.config.settings import ServerSettings
from localinfra.config.sizes import num_bytes
from localinfra.errors import ApiError, ConfigError, ModelNotFound
from localinfra.executor import in_daemon_thread
from localinfra.footprint import CPU, Footprint, Room, less, total
from localinfra.journal import Trouble
from localinfra.kinds import (
    BY_ENTRY,
    EMBEDDING,
    RERANK,
    TEXT,
    Kind,
    LoadedModel,
    free_memory,
    held_memory,
    park,
    parked,
    trim_devices,
    wake,
)
from localinfra.logs import stacks
from localinfra.machine import cache_folder
from localinfra.models import measured
from localinfra.models.budget import Budget
from localinfra.models.catalog import Catalog
from localinfra.models.entries import ModelEntry
from localinfra.models.measured import LoadMeter
from localinfra.models.pool import LoadState, Pool
from localinfra.models.seats import Lease, LoadPlan, Seats
from localinfra.models.sharing import Sharing
from localinfra.origin import Changes, Origin, merged
from localinfra.prefixes.allowance import Allowance
from localinfra.prefixes.shelves import Shelves
from localinfra.safeguard import Safeguard
from localinfra.text import faster_weights
from localinfra.text.faster_weights import FasterWeights
from localinfra.text.quiet import Quiet

if TYPE_CHECKING:
    from localinfra.embed.model import EmbeddingModel, RerankModel
    from localinfra.text.model import TextModel

logger = logging.getLogger(__name__)

E = TypeVar("E", bound=ModelEntry)
M = TypeVar("M", bound=LoadedModel)

# The engine's thread needs the GIL back between two steps. By default another thread may keep it
# for 5 ms, as long as a whole step of a small model.
SWITCH_INTERVAL_S = 0.0005
IDLE_CHECK_S = PULSE_CHECK_S = 1.0

# The next request reloads a broken model. A load balancer that watches `/health` sends none until
# the model is back, so it is reloaded without a request after this long.
REVIVE_AFTER_S = 10.0
REFRESH_AFTER_S = 2.0  # at most so often, clients may ask for unknown names
# Settings that a model is loaded with.
OF_LOADED_MODELS = ("max_queue", "share_prefixes", "max_request_tokens", "max_megapixel_steps")
MEASURED = ("encoders", "optimized")  # folders of the cache
LAST_WRITES_S = 3.0  # for prefixes that are not in files yet, at the end


class Runtime:
    """Everything one server process owns. Event loop only: create it and `close` it there."""

    def __init__(self, settings: ServerSettings, catalog: Catalog, origin: Origin | None = None):
        """`origin`: of both, to read them anew."""
        self.settings = settings
        self._followers: list[Callable[[ServerSettings], None]] = []
        self.catalog = catalog
        self._origin = origin
        self._reading = asyncio.Lock()  # or a slow look would undo what a later one has found
        self._refreshed_at = time.monotonic()
        self.started_at = int(time.time())
        self._budget = Budget.of(settings, free_memory)
        disk_bytes = num_bytes(settings.disk_cache) if settings.disk_cache else 0
        self.prefixes = Shelves(cache_folder("prefixes"), disk_bytes)
        self._allowance = Allowance(self.prefixes)
        self._models: Pool[LoadedModel] = Pool(
            self._load,
            self._release,
            fault=lambda model: model.worker.fault,
            is_busy=lambda model: model.is_busy,
            sharing=Sharing(
                plan=self._plan,
                takes=lambda model: model.footprint,
                room=self._room,
                is_pinned=self._is_pinned,
                parked=parked,
                park=park,
                wake=wake,
                changed=self._fit_prefixes,
                patience_s=lambda: self.settings.swap_wait_s,
            ),
        )
        self._meter = LoadMeter(held_memory)
        self.safeguard = Safeguard()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watches: list[asyncio.Task[None]] = []
        self._closing: asyncio.Task[None] | None = None
        optimized = faster_weights.optimized(catalog.entries)
        may_change = settings.default_seed is None  # it promises the same texts until the end
        self._faster_weights = FasterWeights(
            optimized, Quiet(self._is_busy), self._renew if may_change else None
        )
        self._keeps_original = () if may_change else faster_weights.unchanged(optimized)
        sys.setswitchinterval(SWITCH_INTERVAL_S)

    def _entry(self, name: str) -> ModelEntry:
        """As the model is loaded. Raises ModelNotFound after a reload, and Quarantined."""
        entry = self.catalog.entries.get(name)
        if entry is None:
            raise ModelNotFound(f"The model {name!r} is not served any more.", "model")
        entry = self.safeguard.served(name, entry)
        if name in self._keeps_original:
            entry = msgspec.structs.replace(entry, optimize="off")
        return entry

    def _is_pinned(self, name: str) -> bool:
        entry = self.catalog.entries.get(name)  # a reload may have removed it
        return entry is not None and entry.pinned

    def _plan(self, name: str, held: Footprint) -> LoadPlan:
        """How the model will be loaded, and what it takes: as it was measured before, or else as
        expected. Imports the libraries of its kind."""
        try:
            entry = self._entry(name)
            plan = BY_ENTRY[type(entry)].plan(name, entry, self._room(held))
        except ApiError:
            return LoadPlan()  # the load will fail too, and say why
        known = measured.footprints.find(measured.identity(entry, plan.shape))
        return msgspec.structs.replace(plan, measured=known)

    def _load(self, name: str, plan: LoadPlan) -> LoadedModel:
        """Also measures what it takes."""
        entry = self._entry(name)
        with self.safeguard.loading(name, self.catalog.entries[name]) as mark:
            with self._meter.load() as load:
                model = self._load_kind(name, entry, plan)
        model.worker.mark = mark
        found = model.footprint if model.footprint.bytes_on else load.grown(plan.expected)
        if found and found != plan.measured:
            measured.footprints.keep(measured.identity(entry, plan.shape), found)
        model.footprint = total((found or plan.measured or plan.expected, plan.working))
        garbage.freeze()
        return model

    def _release(self, model: LoadedModel) -> None:
        with self.safeguard.releasing(model):
            model.close()
        garbage.collect()
        trim_devices()  # after that: only what nothing refers to is given back
        garbage.trim()

    def _load_kind(self, name: str, entry: ModelEntry, plan: LoadPlan) -> LoadedModel:
        return BY_ENTRY[type(entry)].load(name, entry, self.settings, plan, self.prefixes)

    async def refresh(self, *, is_urgent: bool = False) -> None:
        """Looks for models without a table that came or went; not often, unless it `is_urgent`."""
        if self._origin is None:
            return
        async with self._reading:
            if time.monotonic() - self._refreshed_at < REFRESH_AFTER_S and not is_urgent:
                return
            try:
                catalog = await in_daemon_thread(self._origin.discover, name="search for models")
            except ConfigError as error:
                logger.warning("the models are not read again: %s", error)
            else:
                self._serve(catalog)
            self._refreshed_at = time.monotonic()

    async def reload(self) -> Changes:
        """Reads settings and models anew. Running requests keep the models that they have. Raises
        ConfigError and changes nothing if the file is wrong."""
        if self._origin is None:
            raise ConfigError("this server's settings don't come from a file")
        async with self._reading:
            settings, catalog = await in_daemon_thread(self._origin.read, name="reload")
            before = self.settings
            has_keys = self._origin.has_named_keys
            self.settings, needs_restart = merged(before, settings, has_named_keys=has_keys)
            old, new = self.catalog.entries, catalog.entries
            forgiven = await in_daemon_thread(self.safeguard.forget, name="forget deaths")
            self._serve(catalog, forgiven)
            self._apply(before)
        return Changes(
            added=[name for name in new if name not in old],
            changed=[name for name in new if name in old and old[name] != new[name]],
            removed=[name for name in old if name not in new],
            needs_restart=needs_restart,
        )

    def follow(self, apply: Callable[[ServerSettings], None]) -> None:
        """Calls `apply` with the settings, now and whenever a reload has read them."""
        self._followers.append(apply)
        apply(self.settings)

    def _apply(self, before: ServerSettings) -> None:
        settings = self.settings
        for apply in self._followers:
            apply(settings)
        self._budget = Budget.of(settings, free_memory)
        self._models.settle()
        if any(getattr(before, key) != getattr(settings, key) for key in OF_LOADED_MODELS):
            for name in self.loaded():
                self._start(self._change(name))

    def _serve(self, catalog: Catalog, forgiven: Collection[str] = ()) -> None:
        """Unloads models whose entries have changed once their requests have ended, and those that
        are forgiven to have killed the server."""
        old, self.catalog = self.catalog.entries, catalog
        for name in old | catalog.entries:
            if old.get(name) != catalog.entries.get(name) or name in forgiven:
                self.forgive(name)
                self._start(self._change(name))

    async def _change(self, name: str) -> None:
        await self._models.unload(name)
        entry = self.catalog.entries.get(name)
        if entry is not None and entry.preload:
            await self._preload(name)

    async def _renew(self, name: str) -> bool:
        """See `Pool.renew`; not if a reload has brought a default_seed, which promises the same
        texts from then on."""
        return self.settings.default_seed is None and await self._models.renew(name)

    def forgive(self, name: str) -> None:
        """Forgets that a load failed: what was missing may be here now."""
        self._models.failures.forget(name)

    async def load(self, name: str) -> None:
        """Loads the model, if it is not loaded yet. Raises ModelUnavailable."""
        await self._models.get(name)

    async def unload(self, name: str) -> None:
        """Frees the model once its requests have ended. Later ones load it again."""
        await self._models.unload(name)

    def keep(self, name: str, idle_s: float | None) -> None:
        """Lets the loaded model stay for this long without a request; None: for good."""
        if seat := self.seats.named(name):
            seat.kept_s = idle_s

    async def lease(self, name: str) -> Lease[LoadedModel]:
        """The model, loaded and kept in memory until the lease is released. Raises
        ModelUnavailable, and QueueFull."""
        self._faster_weights.make_way()
        return await self._models.lease(name, self.settings.max_queue)

    def state(self, name: str) -> LoadState:
        return self._models.state(name)

    def optimize_state(self, name: str) -> str | None:
        """What was decided on a model's weights, or how far the search is; None without one."""
        return self._faster_weights.states().get(name)

    def _is_busy(self) -> bool:
        """Whether requests run or models are loading."""
        is_loading = any(self.state(name) is LoadState.LOADING for name in self.catalog.entries)
        return is_loading or any(model.is_busy for model in self.loaded().values())

    def loaded(self) -> dict[str, LoadedModel]:
        return self._models.loaded()

    @property
    def seats(self) -> Seats[LoadedModel]:
        """The models in memory, those included that are being loaded or unloaded."""
        return self._models.seats

    def prefix_bytes(self) -> dict[str, int]:
        """Main memory that prefixes outside of KV caches take, by model; also of unloaded ones."""
        running = self.loaded_text_models().items()
        return self.prefixes.num_bytes | {n: m.worker.offloaded_bytes for n, m in running}

    def room(self) -> Room:
        """Bytes by device for all models and their prefixes together."""
        return self._room(self.seats.held)

    def _room(self, held: Footprint) -> Room:
        prefixes = Footprint({CPU: self._allowance.num_bytes})
        return self._budget.room(total((held, prefixes)))

    def _fit_prefixes(self, takes: Mapping[str, Footprint]) -> None:
        """Lets prefixes outside of KV caches have what the models leave of the budget."""
        left = less(self.room(), total(takes.values()))
        if CPU in left:
            workers = [model.worker for model in self.loaded().values()]
            self._allowance.fit(left[CPU], workers, takes)

    def loaded_of(self, kind: Kind[E, M]) -> dict[str, M]:
        """The loaded models of one kind, without those that a reload has removed."""
        entries, loaded = self.catalog.entries, self.loaded().items()
        return {n: kind.own(model) for n, model in loaded if isinstance(entries.get(n), kind.entry)}

    def loaded_text_models(self) -> "dict[str, TextModel]":
        return self.loaded_of(TEXT)

    def loaded_encoders(self) -> "dict[str, EmbeddingModel | RerankModel]":
        return self.loaded_of(EMBEDDING) | self.loaded_of(RERANK)

    def start(self) -> None:
        """Starts loading the entries with `preload`; requests for them wait. Sweeps the cache of
        what interrupted measurements have left. Does nothing the second time."""
        if self._watches:
            return
        for folder in MEASURED:
            threading.Thread(
                target=sweep_if_free, args=(cache_folder(folder),), daemon=True
            ).start()
        for name, entry in self.catalog.entries.items():
            if entry.preload:
                self._start(self._preload(name))
        watches = (self._watch_memory, self._watch_models, self._faster_weights.run)
        self._watches = [asyncio.create_task(watch()) for watch in watches]

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _preload(self, name: str) -> None:
        with contextlib.suppress(ApiError):  # logged by the pool; requests get it again
            await self._models.get(name)

    async def _watch_memory(self) -> None:
        """Unloads models that have been idle for as long as their entry says, and keeps prefixes
        within the budget."""
        while True:
            await asyncio.sleep(IDLE_CHECK_S)
            entries = self.catalog.entries.items()
            try:
                await self._models.unload_idle({name: one.unload_after_s for name, one in entries})
                self._fit_prefixes(self.seats.footprints)
            except Exception:  # a failed look must not end the watch
                logger.exception("the memory could not be looked after")

    def faults(self) -> dict[str, str]:
        """Models that broke and are not back yet → why they broke."""
        self._models.check()
        return {n: fault.reason for n, fault in self._models.faults(self.catalog.entries).items()}

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
        for seat, model, thread, num_checks in self.safeguard.hanging(self.seats, max_checks):
            reason = f"its {thread} made no step for {num_checks * PULSE_CHECK_S:g} s"
            logger.error("%s: %s. All threads:\n%s", seat.name, reason, stacks())
            self.safeguard.abandon(model, reason)
            self.safeguard.give_up(model, Trouble.HANGS, f"{seat.name}: {reason}")
            self._models.drop(seat, reason, is_final=self.safeguard.hangs_too_often(seat.name))

    def _revive(self) -> None:
        for name, fault in self._models.faults(self.catalog.entries).items():
            if time.monotonic() - fault.since > REVIVE_AFTER_S:
                self._start(self._preload(name))

    async def close(self) -> None:
        """Ends all running work, with an error to its clients, and frees all models. Threads that
        do not end in time are left behind."""
        for watch in self._watches:
            watch.cancel()
        self._closing = self._closing or asyncio.create_task(self._close())
        await self._closing

    async def _close(self) -> None:
        self.prefixes.is_ending = True
        await self._models.close()
        await in_daemon_thread(self.prefixes.close, LAST_WRITES_S, name="last prefixes")
