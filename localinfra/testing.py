"""A server for your own tests: in this process, ready when its block begins.

    with localinfra.testing.server() as base_url:
        client = openai.OpenAI(base_url=base_url, api_key=base_url.api_key)

Owns the server's thread and event loop. Leaves the process as it found it: signal handlers,
logging and the environment stay untouched. `pytest_plugin.py` makes fixtures of it.
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
from localinfra.api.sockets.binding import bind
from localinfra.api.sockets.server import Server
from localinfra.config import settings as config_file
from localinfra.config.settings import ServerSettings, local_url
from localinfra.config.tables import decode
from localinfra.errors import ConfigError
from localinfra.models import catalog as catalog_file
from localinfra.models.catalog import Catalog
from localinfra.models.entries import ModelEntry, TextModelEntry
from localinfra.runtime import Runtime

T = TypeVar("T")

DEFAULT_SEED = 0
END_LIMIT_S = 60.0  # a busy machine may take long to free the models


class BaseURL(str):
    """`http://127.0.0.1:PORT/v1`, an OpenAI client's `base_url`."""

    model: str  # the name of the loaded model
    api_key: str  # any string if the server needs none

    @property
    def root(self) -> str:
        """Without `/v1`: an Anthropic client's `base_url`."""
        return self.removesuffix("/v1")


@contextlib.contextmanager
def server(
    config: str | Path | Mapping[str, object] | None = None,
    *,
    seed: int | None = None,
    api_key: str | None = None,
) -> Iterator[BaseURL]:
    """Serves from a thread of this process, on a free port of 127.0.0.1, until the block ends.

    Without a `config`, the chat model that comes with localinfra answers, whatever model a request
    names. `config` is a settings file or a dict of its tables: its first text model is loaded at
    once, or its first model if it has no text model; the others load on first use.

    A request without a seed gets `seed`, else the config's `default_seed`, else 0, so that the same
    request gives the same answer. For the same reason `optimize` is off. Requests need a key only
    if `api_key` is given. $LOCALINFRA_CONFIG and $LOCALINFRA_API_KEYS have no effect, and
    `localinfra costs` counts nothing.

    Raises ConfigError if the settings are invalid and ModelUnavailable if the model can't be
    loaded; both say what to do.
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
    """A server in a thread with its own event loop. It listens once this is constructed."""

    def __init__(self, server: Server, host: str = "127.0.0.1") -> None:
        sockets = bind(host, 0)
        self.server = server
        self.port: int = sockets[0].getsockname()[1]
        self.url = local_url(server.open.settings, "127.0.0.1", self.port)
        # A daemon, so that a program which never leaves its block can still end.
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
        """Runs a coroutine on the server's loop and returns its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        self.server.should_exit = True
        self._thread.join(END_LIMIT_S)
        if self._thread.is_alive():
            raise RuntimeError(f"the server did not end within {END_LIMIT_S:g} s")


class _Guest(Server):
    """Ends without waiting for running answers: their clients get an error."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(create_app(runtime), runtime.settings)
        self._runtime = runtime

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        await self._runtime.close()
        await super().shutdown(sockets)


def _settings(
    config: str | Path | Mapping[str, object] | None, seed: int | None, api_key: str | None
) -> tuple[ServerSettings, Catalog]:
    """Raises ConfigError if the settings are invalid or name no model."""
    if isinstance(config, Mapping):
        found = config_file.read(config, Path("config"))  # its name in errors
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
        found.server,
        host="127.0.0.1",
        tls_cert=None,  # as other machines know it: no client would trust it here
        tls_key=None,
        api_keys=own.api_keys,
        default_seed=own.default_seed,
    )
    catalog = catalog_file.load(found)
    if not catalog.entries:
        raise ConfigError(
            f"{found.path} has no model: {config_file.shipped_file()} shows how to add one"
        )
    entries = {name: _unoptimized(entry) for name, entry in catalog.entries.items()}
    fallback = catalog.fallback_model
    if config is None:
        # Tests share the machine. At load 5 on two cores, two threads that wait for each other took
        # 4 to 6 s to load and 2 to 13 s for a first answer; one thread took 1.3 s and 0.6 s.
        fallback = _first_model(catalog)
        entries[fallback] = replace(entries[fallback], threads=1)
    return settings, Catalog(entries, fallback)


def _first_model(catalog: Catalog) -> str:
    """The first text model, else the first model."""
    text = (name for name, entry in catalog.entries.items() if isinstance(entry, TextModelEntry))
    return next(text, catalog.names[0])


def _unoptimized(entry: ModelEntry) -> ModelEntry:
    return replace(entry, optimize="off") if isinstance(entry, TextModelEntry) else entry


class _Process:
    """Restores what servers change for the whole process when the last of them ends."""

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
