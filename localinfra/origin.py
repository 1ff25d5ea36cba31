"""Where a server's settings and models come from: read at its start, and again when they change."""

from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path

import msgspec

from localinfra import certificate
from localinfra.certificate import Files
from localinfra.config import settings as config_file
from localinfra.config.settings import Config, ServerSettings
from localinfra.keys import file as key_file
from localinfra.models import catalog as catalog_file
from localinfra.models.catalog import Catalog

# What the process holds from its start to its end; a reload changes all others.
NEEDS_RESTART = frozenset(
    {
        "host",  # the socket is bound
        "port",
        "ollama_port",
        "ollama_api",  # the routes are made
        "disk_cache",  # engines have its files
        "keep_costs",  # what was used meanwhile would be lost, or charged
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
        keys: Path | None = None,
    ):
        """`path`: the settings file, by default as `config.settings.load` finds it. `models`: files
        and folders to serve: alone, without a `path`. `options` replace keys of `[server]`. `check`
        raises ConfigError if files of models are not what their tables say. `keys`: the file of the
        named keys."""
        self._path = path
        self._models = models
        self._options = options
        self._check = check
        self._keys = keys
        self.has_named_keys = False  # when it was last read
        self._config: Config | None = None

    def read(self) -> tuple[ServerSettings, Catalog]:
        """Reads all anew. Raises ConfigError; `discover` then goes on with what was read before."""
        config = config_file.load(self._path)
        if self._models and self._path is None:
            server = msgspec.structs.replace(config.server, models_dir=None, serve_pulled=False)
            config = msgspec.structs.replace(config, server=server, models={})
        server = msgspec.structs.replace(config.server, **self._options)
        book = key_file.read(self._keys) if self._keys else None
        has_named_keys = book is not None and bool(book.keys)
        server.check_exposure(has_named_keys=has_named_keys)
        if server.tls_cert:
            certificate.read(Files(server.tls_cert, server.tls_key))
        catalog = catalog_file.discover(config, self._models)
        self._check(catalog, config.path)
        self._config, self.has_named_keys = config, has_named_keys
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

    def only(self, names: Container[str]) -> "Changes":
        """Of these models alone."""
        kept = {
            what: [name for name in getattr(self, what) if name in names]
            for what in ("added", "changed", "removed")
        }
        return msgspec.structs.replace(self, **kept)

    def __str__(self) -> str:
        named = {"added": self.added, "changed": self.changed, "removed": self.removed}
        parts = [f"{what}: {', '.join(names)}" for what, names in named.items() if names]
        models = "; ".join(parts) or "no model has changed"
        keys = ", ".join(self.needs_restart)
        return f"{models}. Only a restart changes {keys} of [server]." if keys else f"{models}."


def merged(
    old: ServerSettings, new: ServerSettings, *, has_named_keys: bool = False
) -> tuple[ServerSettings, list[str]]:
    """The new settings with the old values of the keys that need a restart, and those of these that
    differ. Raises ConfigError if others could then use the server without a key."""
    kept = {name: getattr(old, name) for name in NEEDS_RESTART}
    found = msgspec.structs.replace(new, **kept)
    found.check_exposure(has_named_keys=has_named_keys)
    return found, [name for name in sorted(kept) if getattr(new, name) != kept[name]]
