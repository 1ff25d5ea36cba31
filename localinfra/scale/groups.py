"""Which group of replicas serves a model."""

from collections.abc import Mapping

from localinfra.config.scale import ReplicaGroup, Scale
from localinfra.errors import ConfigError
from localinfra.models.catalog import Catalog

LATEST = ":latest"  # added by Ollama's clients to names without a tag
OTHERS = "others"  # the group of models that no table names


class Groups:
    """The groups by name. Every replica knows the whole catalogue, but is only asked for the models
    of its group; so lists, prices and advice on names are the same everywhere."""

    def __init__(self, scale: Scale, catalog: Catalog, path: object = "models.toml"):
        """Raises ConfigError if a group names an unknown model, or two groups the same one."""
        self.tables: dict[str, ReplicaGroup] = dict(scale.groups)
        self._catalog = catalog
        self._owners: dict[str, str] = {}
        rest = [name for name, group in self.tables.items() if not group.models]
        if len(rest) > 1:
            raise ConfigError(
                f'{path}: [ray.group."{rest[1]}"] models: missing; only one group, here '
                f'"{rest[0]}", can have all that others don\'t'
            )
        for group, table in self.tables.items():
            place = f'{path}: [ray.group."{group}"] models:'
            for own in (self._own(model, place) for model in table.models):
                other = self._owners.setdefault(own, group)
                if other != group:
                    raise ConfigError(f'{place} "{own}" is in [ray.group."{other}"] already')
        if not rest:
            rest = [OTHERS]
            if OTHERS in self.tables:
                raise ConfigError(
                    f'{path}: [ray.group."{OTHERS}"] has models: give it another name, as that is '
                    "the group of those without one"
                )
            if not self.tables or self._owners.keys() < catalog.entries.keys():
                self.tables[OTHERS] = ReplicaGroup()
        # Of models without a table, of unknown names, and of what concerns no model.
        self.home = rest[0] if rest[0] in self.tables else next(iter(self.tables))

    def _own(self, model: str, place: str) -> str:
        found = self._catalog.own_name(model)
        if found is None:
            known = ", ".join(self._catalog.entries)
            raise ConfigError(f'{place} no model is called "{model}"; known: {known}')
        return found

    def own_name(self, model: str, models: frozenset[str] | None = None) -> str | None:
        """The model's own name, or that of the one which answers for it; None if it is unknown
        here, or none of the `models` that a key may use. A replica may still know it, from its own
        machine."""
        catalog = self._catalog.only(models)
        known, fallback = catalog.own_name, catalog.fallback_model
        found = known(model) or known(model.removesuffix(LATEST))
        return found or (known(fallback) if fallback else None)

    def of(self, model: str | None, models: frozenset[str] | None = None) -> str:
        own = self.own_name(model, models) if model else None
        return self._owners.get(own or "", self.home)

    def models_of(self, group: str) -> Mapping[str, None]:
        """The own names of those in the file, in its order."""
        return {
            name: None
            for name in self._catalog.entries
            if self._owners.get(name, self.home) == group
        }
