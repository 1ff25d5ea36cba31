"""models.toml → entries, and a name that a client uses → its entry.

Resolves names and finds files. Loads nothing, fetches nothing and imports no model package.
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from localinfra.config.settings import Config, read_text
from localinfra.config.tables import close_matches, decode, either, suggestion, toml
from localinfra.errors import ConfigError, InvalidRequest, ModelNotFound
from localinfra.models.entries import KINDS, ImageModelEntry, ModelEntry, TextModelEntry
from localinfra.models.found import FoundModel, given_models, in_folder, pulled, with_found
from localinfra.models.names import Name
from localinfra.models.sampling import SamplingSettings
from localinfra.models.sources import ModelSource, Source, absolute, parse_source
from localinfra.models.versions import dotted, table_name, write_out

MAX_KNOWN_CHARS = 4096  # of a name
DEPLOY_ID = "deploy_id:"  # prefix of an id in place of a name

E = TypeVar("E", bound=ModelEntry)


class Catalog:
    """The served models by their own names (NAME:VERSION for a version), in the file's order."""

    def __init__(
        self, entries: Mapping[str, ModelEntry], fallback_model: str | None = None
    ) -> None:
        """Raises ValueError for a duplicate name, and for a fallback or draft model that isn't
        served."""
        self.names_by_id = unique_ids(entries)
        self.entries = {
            name: self._with_draft(name, entry, entries) for name, entry in entries.items()
        }
        if fallback_model is not None and fallback_model not in self.names_by_id:
            raise ValueError(
                f"fallback_model: no model is called {toml(fallback_model)}; "
                f"{suggestion(fallback_model, self.names_by_id)}"
            )
        self.fallback_model = fallback_model
        self._parts: dict[frozenset[str], Catalog] = {}

    def only(self, ids: frozenset[str] | None) -> "Catalog":
        """The part with these models, given by any of their names; a model's own name also gives
        its versions. None: the whole."""
        if ids is None:
            return self
        if ids not in self._parts:
            own = {self.names_by_id[id] for id in ids if id in self.names_by_id}
            part = copy.copy(self)
            part.entries = {
                name: entry
                for name, entry in self.entries.items()
                if name in own or model_of(name, entry) in ids
            }
            part.names_by_id = {
                id: name for id, name in self.names_by_id.items() if name in part.entries
            }
            if part.fallback_model not in part.names_by_id:
                part.fallback_model = None
            self._parts[ids] = part
        return self._parts[ids]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.entries)

    def resolve(self, name: str) -> tuple[str, ModelEntry]:
        """A name, alias, NAME:VERSION or deploy_id:ID → the model's own name and entry.

        Raises ModelNotFound, unless a fallback model answers for foreign names.
        """
        is_known = self.own_name(name) is not None
        if not is_known and self.fallback_model is not None and self._is_foreign(name):
            name = self.fallback_model
        return self.find(name)

    def find(self, name: str) -> tuple[str, ModelEntry]:
        """The same without the fallback: for what must mean no other model, such as deleting."""
        found = self.own_name(name)
        if found is None:
            raise ModelNotFound(self._why_unknown(name[:200]), "model")
        return found, self.entries[found]

    def own_name(self, name: str) -> str | None:
        """Of the model with this name, alias or id. Looks up no long ones: to hash 16 million
        characters takes 15 ms."""
        return self.names_by_id.get(name) if len(name) <= MAX_KNOWN_CHARS else None

    def resolve_as(self, kind: type[E], name: str, route: str) -> tuple[str, E]:
        """Like `resolve`. Raises InvalidRequest naming the right route for another kind."""
        found, entry = self.resolve(name)
        if not isinstance(entry, kind):
            raise misplaced(found, entry, route)
        return found, entry

    def image_model(self, default: str) -> str:
        """What requests mean that name none: the default, or the first image model if that is not
        served."""
        images = (n for n, entry in self.entries.items() if isinstance(entry, ImageModelEntry))
        return default if default in self.names_by_id else next(images, default)

    def sampling(self, name: str) -> SamplingSettings:
        """The sampling defaults of a text model; none if no text model answers to the name."""
        try:
            _, entry = self.resolve(name)
        except ModelNotFound:
            return SamplingSettings()
        return entry.sampling if isinstance(entry, TextModelEntry) else SamplingSettings()

    def name_at(self, path: Path) -> str | None:
        """The model whose file or folder this is; None if it is not served."""
        at = path.resolve()
        paths = ((name, entry.source.find()) for name, entry in self.entries.items())
        return next((name for name, found in paths if found and found.resolve() == at), None)

    def versions(self, name: str) -> tuple[str, ...]:
        """All versions of the model that the entry `name` belongs to."""
        model = model_of(name, self.entries[name])
        return tuple(
            entry.version
            for other, entry in self.entries.items()
            if entry.version and model_of(other, entry) == model
        )

    def _with_draft(
        self, name: str, entry: ModelEntry, entries: Mapping[str, ModelEntry]
    ) -> ModelEntry:
        """The entry with the files of its draft model."""
        if not isinstance(entry, TextModelEntry) or entry.draft is None:
            return entry
        wanted = entry.draft.name
        place = f"{table_of(name, entry)} draft:"
        found = self.names_by_id.get(wanted)
        if found is None:
            hint = suggestion(wanted, self.names_by_id)
            raise ValueError(f"{place} no model is called {toml(wanted)}; {hint}")
        other = entries[found]
        if found == name or not isinstance(other, TextModelEntry):
            what = "the model itself" if found == name else other.article
            raise ValueError(f"{place} {toml(wanted)} is {what}; expected another text model")
        return msgspec.structs.replace(entry, draft=ModelSource(wanted, other.source))

    def _is_foreign(self, name: str) -> bool:
        """Whether the name refers to nothing here, not even a model's unknown version or an id."""
        model, _, _ = name.rpartition(":")
        return self.own_name(model) is None and not name.startswith(DEPLOY_ID)

    def _why_unknown(self, name: str) -> str:
        model, _, version = name.rpartition(":")
        if name.startswith(DEPLOY_ID):
            id = name.removeprefix(DEPLOY_ID)
            return f"No model has the deploy_id {id!r}. {self._known(id, DEPLOY_ID)}"
        if model in self.names_by_id:
            known = self._known(version, f"{model}:")
            return f"The model {model!r} has no version {version!r}. {known}"
        close = close_matches(name, self.names_by_id)
        return f"The model {name!r} does not exist. {hint(close, self.entries)}"

    def _known(self, word: str, prefix: str) -> str:
        """A hint at names with the prefix. Compares them without it, which would make all alike."""
        known = [id.removeprefix(prefix) for id in self.names_by_id if id.startswith(prefix)]
        close = [prefix + id for id in close_matches(word, known)]
        return hint(close, [prefix + id for id in known])


def misplaced(name: str, entry: ModelEntry, route: str) -> InvalidRequest:
    """That models of this kind don't answer at the route."""
    where = " or ".join(entry.routes)
    return InvalidRequest(
        f"{name} is {entry.article}: it answers at {where}, not at {route}.", "model"
    )


def hint(close: Sequence[str], known: Collection[str]) -> str:
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return (
        f"Served here: {', '.join(known)}."
        if known
        else "No model is served yet: localinfra pull fetches one."
    )


def model_of(name: str, entry: ModelEntry) -> str:
    """The model that the entry `name` is a version of, or `name` itself if it is no version."""
    return name.removesuffix(f":{entry.version}")


def table_of(name: str, entry: ModelEntry) -> str:
    """The entry's place in models.toml."""
    model = model_of(name, entry)
    return table_name(model, None if model == name else entry.version)


def unique_ids(entries: Mapping[str, ModelEntry]) -> dict[str, str]:
    """All names that a client may use → the own name of the entry. Raises ValueError if two entries
    claim the same name."""
    owners: dict[str, str] = {}
    for name, entry in entries.items():
        deploy_ids = (f"{DEPLOY_ID}{entry.deploy_id}",) if entry.deploy_id else ()
        for id in (name, *entry.aliases, *deploy_ids):
            if id in owners:
                other = table_of(owners[id], entries[owners[id]])
                raise ValueError(name_taken(id, other, table_of(name, entry)))
            owners[id] = name
    return owners


def name_taken(id: str, by: str, place: str) -> str:
    return f"{place} the name {toml(id)} is already taken by {by}"


def load(config: Config) -> Catalog:
    """The models that have a table in the settings file.

    Reads their chat template files. Raises ConfigError naming the file, the table and the key.
    """
    return catalog_of(config, decode_models(config))


def discover(config: Config, given: Sequence[str] = ()) -> Catalog:
    """The same, and the models without a table: the `given` files, folders and other sources, those
    of `models_dir`, and pulled ones.

    Raises ConfigError like `load`, and if there is no such file or folder.
    """
    try:
        return catalog_of(config, with_found(decode_models(config), found_models(config, given)))
    except OSError as error:  # a disk that can't be read
        raise ConfigError(f"{error.filename}: {error.strerror or error}") from None


def found_models(config: Config, given: Sequence[str]) -> list[FoundModel]:
    try:
        found = [one for text in given for one in given_models(text, Path.cwd())]
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if config.server.models_dir is not None:
        folder = absolute(config.server.models_dir, config.folder)
        if not folder.is_dir():
            raise ConfigError(f"{config.path}: [server] models_dir: {folder} is not a folder")
        found.extend(in_folder(folder))
    if config.server.serve_pulled:
        found.extend(pulled())
    return found


def catalog_of(config: Config, entries: Mapping[str, ModelEntry]) -> Catalog:
    try:
        return Catalog(entries, config.server.fallback_model)
    except ValueError as error:
        raise ConfigError(f"{config.path}: {error}") from None


def decode_models(config: Config) -> dict[str, ModelEntry]:
    entries: dict[str, ModelEntry] = {}
    for name, table in config.models.items():
        for own_name, entry in decode_model(name, table, config.folder, str(config.path)).items():
            if own_name in entries:
                other, place = (table_of(own_name, one) for one in (entries[own_name], entry))
                raise ConfigError(f"{config.path}: {name_taken(own_name, other, place)}")
            entries[own_name] = entry
    return entries


def decode_model(name: str, table: object, folder: Path, file: str) -> dict[str, ModelEntry]:
    """Own name → entry, for the model that the table describes and each of its versions."""
    where = f"{file}: {table_name(name)}"
    if not isinstance(table, dict):
        raise ConfigError(f'{where} expected a table of settings, written [model."NAME"]')
    if inner := dotted(table):
        raise ConfigError(f"{where} a name with dots needs quotes: {table_name(f'{name}.{inner}')}")
    decode({"name": name}, NameTable, f"{where} the model's")
    shared, versions = write_out(name, table, file)
    # With a source in any case, so that mistakes in what versions share are reported here.
    model = decode_entry({"source": "-"} | shared if versions else shared, folder, where)
    names = (name, *model.aliases)
    found: dict[str, ModelEntry] = {}
    if "source" in shared:
        own_version = [f"{id}:{model.version}" for id in names if model.version]
        found[name] = msgspec.structs.replace(model, aliases=(*model.aliases, *own_version))
    for version, settings, is_default in versions:
        entry = decode_entry(settings, folder, f"{file}: {table_name(name, version)}")
        by_alias = (f"{alias}:{version}" for alias in model.aliases)
        aliases = (*entry.aliases, *by_alias, *(names if is_default else ()))
        entry = msgspec.structs.replace(entry, version=version, aliases=aliases)
        found[f"{name}:{version}"] = entry
    return found


def decode_entry(table: dict[str, object], folder: Path, where: str) -> ModelEntry:
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        expected = either(toml(known) for known in KINDS)
        found = f", got {toml(kind)}" if "kind" in table else ""
        raise ConfigError(f"{where} kind: expected {expected}{found}")

    def hook(type: type, value: Any) -> Any:
        if not isinstance(value, str) or not value:
            raise ValueError(f"expected a string, got {toml(value)}")
        if type is ModelSource:
            return ModelSource(value)
        if type is Source:
            return parse_source(value, folder)
        return absolute(value, folder)

    entry: ModelEntry = decode(table, KINDS[kind], where, hook)
    source = entry.source.narrowed(entry.hub_patterns, entry.unneeded_files, entry.download_gb)
    entry = msgspec.structs.replace(entry, source=source)
    return with_template(entry, where) if isinstance(entry, TextModelEntry) else entry


class NameTable(msgspec.Struct, frozen=True):
    """A model's name: a key in TOML, but checked like a value."""

    name: Name


def with_template(entry: TextModelEntry, where: str) -> TextModelEntry:
    path = entry.chat_template_file
    if path is None:
        return entry
    if path.exists() and not path.is_file():  # reading a pipe would wait for its writer
        raise ConfigError(f"{where} chat_template_file: {path} is not a file")
    try:
        template = read_text(path)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{where} chat_template_file: can't read {path}: {reason}") from None
    except ValueError as error:  # not UTF-8, or NUL in the path
        raise ConfigError(f"{where} chat_template_file: can't read {path}: {error}") from None
    return msgspec.structs.replace(entry, chat_template=template, chat_template_file=None)
