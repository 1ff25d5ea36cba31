"""A server for other people's tests: in this process, ready when its block begins.

    with localinfra.testing.server() as base_url:
        client = openai.OpenAI(base_url=base_url, api_key=base_url.api_key)

Owns the server's thread with its event loop, and leaves the process as it found it: no signal
handlers, no logging, nothing of the environment. `pytest_plugin.py` makes fixtures of it.
"""

import asyncio
import contextlib
import gc
import logging
import sys
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from socket import socket
from typing import Any, TypeVar

from msgspec.structs import replace

from localinfra.api.app import create_app
from localinfra.api.sockets.server import Server, bind
from localinfra.config import settings as config_file
from localinfra.config.settings import ServerSettings
from localinfra.config.tables import decode
from localinfra.errors import ConfigError
from localinfra.models import catalog as catalog_file
from localinfra.models.catalog import Catalog
from localinfra.models.entries import ModelEntry, TextModelEntry
from localinfra.runtime import Runtime

T = TypeVar("T")

DEFAULT_SEED = 0
END_LIMIT_S = 60.0  # for models to be freed on a busy machine


class BaseURL(str):
    """`http://127.0.0.1:PORT/v1`, which OpenAI's clients take as `base_url`."""

    model: str  # the name of the model that is loaded
    api_key: str  # any will do where none is asked for

    @property
    def root(self) -> str:
        """Without `/v1`, as Anthropic's clients take it."""
        return self.removesuffix("/v1")


@contextlib.contextmanager
def server(
    config: str | Path | Mapping[str, object] | None = None,
    *,
    seed: int | None = None,
    api_key: str | None = None,
) -> Iterator[BaseURL]:
    """Serves from a thread of this process, on a free port of 127.0.0.1, until the block ends.

    Without a `config` the chat model that comes with localinfra answers, whatever name a request
    has for it. With one, a settings file or a dict of its tables, its first text model is loaded
    at the start, or its first model where none is for text; others when they are asked for.

    A request that names no seed gets `seed`, or else the config's `default_seed`, or else 0: the
    same request, the same answer. To that end weights are served as they are (`optimize` is off).
    A key is asked for only where `api_key` gives one. $LOCALINFRA_CONFIG and $LOCALINFRA_API_KEYS
    have no effect, and `localinfra costs` counts nothing.

    Raises ConfigError for settings that can't be used and ModelUnavailable for a model that can't
    be loaded; both say what to do.
    """
    settings, catalog = _settings(config, seed, api_key)
    name = _first_model(catalog)
    with _process.preserved():
        runtime = Runtime(settings, catalog)
        background = Background(_Guest(runtime))
        try:
            background.run(runtime.load(name))
            url = BaseURL(f"{background.url}/v1")
            url.model, url.api_key = name, api_key or "none"
            yield url
        finally:
            background.close()


class Background:
    """A server in a thread with an event loop of its own, which listens when this returns."""

    def __init__(self, server: Server, host: str = "127.0.0.1") -> None:
        sockets = bind(host, 0)
        self.server = server
        self.port: int = sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        # A daemon: a program that never ends its block can end all the same.
        self._thread = threading.Thread(
            target=self._run, args=(sockets,), name="localinfra server", daemon=True
        )
        self._thread.start()
        while not server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the server could not start; the log says why")
            time.sleep(0.001)

    def _run(self, sockets: list[socket]) -> None:
        with asyncio.Runner(loop_factory=self.server.config.get_loop_factory()) as runner:
            self._loop = runner.get_loop()
            runner.run(self.server.serve(sockets))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of what runs on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        self.server.should_exit = True
        self._thread.join(END_LIMIT_S)
        if self._thread.is_alive():
            raise RuntimeError(f"the server did not end within {END_LIMIT_S:g} s")


class _Guest(Server):
    """Waits for no answers at its end: their clients are told."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(create_app(runtime), runtime.settings)
        self._runtime = runtime

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        await self._runtime.close()
        await super().shutdown(sockets)


def _settings(
    config: str | Path | Mapping[str, object] | None, seed: int | None, api_key: str | None
) -> tuple[ServerSettings, Catalog]:
    """Raises ConfigError."""
    if isinstance(config, Mapping):
        found = config_file.read(config, Path("config"))  # so called in errors
    else:
        path = config_file.find_file(Path(config) if config else config_file.shipped_file())
        found = config_file.read(config_file.read_toml(path), path)
    seeds = (seed, found.server.default_seed, DEFAULT_SEED)
    asked = {
        "api_keys": [] if api_key is None else [api_key],
        "default_seed": next(seed for seed in seeds if seed is not None),
    }
    own = decode(asked, ServerSettings, "localinfra.testing.server:")
    settings = replace(
        found.server, host="127.0.0.1", api_keys=own.api_keys, default_seed=own.default_seed
    )
    catalog = catalog_file.load(found)
    if not catalog.entries:
        raise ConfigError(
            f"{found.path} names no model: {config_file.shipped_file()} shows how it is done"
        )
    entries = {name: _unoptimized(entry) for name, entry in catalog.entries.items()}
    fallback = catalog.fallback_model
    if config is None:
        # Tests run beside others. With load 5 on two cores, two threads that wait for each other
        # took 4 to 6 s to load and 2 to 13 s for a first answer; one took 1.3 s and 0.6.
        fallback = _first_model(catalog)
        entries[fallback] = replace(entries[fallback], threads=1)
    return settings, Catalog(entries, fallback)


def _first_model(catalog: Catalog) -> str:
    """The first text model, or the first one where none is for text."""
    text = (name for name, entry in catalog.entries.items() if isinstance(entry, TextModelEntry))
    return next(text, catalog.names[0])


def _unoptimized(entry: ModelEntry) -> ModelEntry:
    return replace(entry, optimize="off") if isinstance(entry, TextModelEntry) else entry


class _Process:
    """What servers change for the whole process, put back after the last of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_servers = 0
        self._undo = contextlib.ExitStack()

    @contextlib.contextmanager
    def preserved(self) -> Iterator[None]:
        with self._lock:
            if not self._num_servers:
                self._remember()
            self._num_servers += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_servers -= 1
                if not self._num_servers:
                    self._undo.close()

    def _remember(self) -> None:
        undo = self._undo.callback
        undo(sys.setswitchinterval, sys.getswitchinterval())
        if not gc.get_freeze_count():
            undo(gc.unfreeze)
        for name in ("uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
            logger = logging.getLogger(name)
            undo(logger.setLevel, logger.level)
            undo(setattr, logger, "handlers", logger.handlers)
            undo(setattr, logger, "propagate", logger.propagate)


_process = _Process()
