"""The settings and models of one group's replicas, as they were handed to them."""

from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from localinfra.config.scale import ReplicaGroup
from localinfra.config.settings import Config, ServerSettings
from localinfra.models import catalog as catalog_file
from localinfra.models.catalog import Catalog
from localinfra.models.entries import ModelEntry, TextModelEntry
from localinfra.origin import Origin
from localinfra.scale.groups import Groups


class GroupOrigin(Origin):
    """Settings that came from another machine; only models are looked for anew."""

    def __init__(self, config: Config, group: str):
        super().__init__()
        self.has_named_keys = True  # or other keys: whoever deploys has checked that
        self._config = config
        self._group = group

    def take(self, config: Config) -> bool:
        """What `read` returns from now on. Returns whether it is anything else than before."""
        is_new = config != self._config
        self._config = config
        return is_new

    def read(self) -> tuple[ServerSettings, Catalog]:
        assert self._config
        return self._config.server, self.discover()

    def discover(self) -> Catalog:
        assert self._config
        catalog = catalog_file.discover(self._config)
        groups = Groups(self._config.scale, catalog, self._config.path)
        table = groups.tables[self._group]
        own = groups.models_of(self._group)
        entries = {n: fitted(one, table, n in own) for n, one in catalog.entries.items()}
        return Catalog(entries, catalog.fallback_model)


def fitted(entry: ModelEntry, table: ReplicaGroup, is_own: bool) -> ModelEntry:
    """An entry in a replica: the models of other groups wait until somebody asks for them."""
    if not is_own:
        return replace(entry, preload=False)
    if isinstance(entry, TextModelEntry) and entry.threads is None and table.num_cpus:
        return replace(entry, threads=table.num_cpus)
    return entry


def packed(config: Config) -> dict[str, str]:
    """For Serve, whose settings of a deployment are what JSON can say."""
    return {"config": msgspec.json.encode(config, enc_hook=str).decode()}  # a path is its text


def unpacked(given: dict[str, str]) -> Config:
    def of_kind(kind: type, value: Any) -> Any:
        return Path(value) if kind is Path else value  # others are values of raw tables

    return msgspec.json.decode(given["config"], type=Config, dec_hook=of_kind)
