"""Where a server's settings and models come from: read at its start, and again when they change."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from localinfra.config import settings as config_file
from localinfra.config.settings import Config, ServerSettings
from localinfra.models import catalog as catalog_file
from localinfra.models.catalog import Catalog

# Read whenever they are needed; the others are read once, at the start.
LIVE = frozenset(
    {
        "default_seed",
        "fallback_model",
        "keepalive_s",
        "models_dir",
        "serve_pulled",
        "shutdown_timeout_s",
        "watchdog_s",
    }
)


class Origin:
    """A settings file, and what a command line adds to it. All methods block."""

    def __init__(
        self,
        path: Path | None = None,
        models: Sequence[str] = (),
        options: Mapping[str, object] = {},
        check: Callable[[Catalog, Path], None] = lambda catalog, path: None,
    ):
        """`path`: the settings file, by default as `config.settings.load` finds it. `models`: files
        and folders to serve: alone, without a `path`. `options` replace keys of `[server]`. `check`
        raises ConfigError if files of models are not what their tables say."""
        self._path = path
        self._models = models
        self._options = options
        self._check = check
        self._config: Config | None = None

    def read(self) -> tuple[ServerSettings, Catalog]:
        """Reads all anew. Raises ConfigError; `discover` then goes on with what was read before."""
        config = config_file.load(self._path)
        if self._models and self._path is None:
            server = msgspec.structs.replace(config.server, models_dir=None, serve_pulled=False)
            config = msgspec.structs.replace(config, server=server, models={})
        server = msgspec.structs.replace(config.server, **self._options)
        server.check_exposure()
        catalog = catalog_file.discover(config, self._models)
        self._check(catalog, config.path)
        self._config = config
        return server, catalog

    def discover(self) -> Catalog:
        """The catalogue with the tables last read and the models that are there now. Raises
        ConfigError."""
        assert self._config, "read first"
        return catalog_file.discover(self._config, self._models)


class Changes(msgspec.Struct, frozen=True):
    """What a reload did."""

    added: list[str]  # names of models
    changed: list[str]  # served anew from their next request on
    removed: list[str]
    needs_restart: list[str]  # keys of [server] that keep their old values

    def __str__(self) -> str:
        named = {"added": self.added, "changed": self.changed, "removed": self.removed}
        parts = [f"{what}: {', '.join(names)}" for what, names in named.items() if names]
        models = "; ".join(parts) or "no model has changed"
        keys = ", ".join(self.needs_restart)
        return f"{models}. Only a restart changes {keys} of [server]." if keys else f"{models}."


def merged(old: ServerSettings, new: ServerSettings) -> tuple[ServerSettings, list[str]]:
    """The old settings with the new values of live keys, and the keys that need a restart."""
    differing = [name for name in old.__struct_fields__ if getattr(old, name) != getattr(new, name)]
    live = {name: getattr(new, name) for name in differing if name in LIVE}
    return msgspec.structs.replace(old, **live), [name for name in differing if name not in LIVE]
