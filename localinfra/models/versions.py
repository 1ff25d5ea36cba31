"""A model's table with versions → a complete table for each version.

Raw TOML in and out; `entries.py` knows what the settings mean.
"""

from collections.abc import Mapping
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from localinfra.config.tables import decode, either, toml
from localinfra.errors import ConfigError

Version = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$",
        description='a version such as "2024-07", of letters, digits and . _ + -',
    ),
]
WRITTEN = '[model."NAME".versions."VERSION"]'
TABLES = frozenset(
    {"price", "prompts", "recommended", "sampling", "versions"}
)  # the settings that are tables themselves

# Not inherited, since a name means one model; and inherited by the default version alone.
NAMES = frozenset({"aliases", "version"})
OF_THE_DEFAULT = frozenset({"deploy_id", "preload"})

# Alternatives: either one in a version replaces the model's.
TEMPLATES = frozenset({"chat_template", "chat_template_file"})


class WrittenOut(NamedTuple):
    """A version's table, with inherited settings."""

    version: str
    table: dict[str, object]
    is_default: bool  # the model's plain name means this version


class VersionName(msgspec.Struct, frozen=True):
    """A version's name: a key in TOML, but checked like a value."""

    name: Version


def table_name(model: str, version: str | None = None) -> str:
    """The header of a table as in models.toml."""
    return f"[model.{toml(model)}{f'.versions.{toml(version)}' if version else ''}]"


def write_out(
    model: str, table: Mapping[str, object], file: str
) -> tuple[dict[str, object], list[WrittenOut]]:
    """The model's own settings, and its versions' tables with inherited settings.

    Raises ConfigError.
    """
    shared = {k: value for k, value in table.items() if k not in ("versions", "default_version")}
    own = version_tables(model, table, file)
    default = default_version(table, list(own), f"{file}: {table_name(model)}")
    found = []
    for version, settings in own.items():
        is_default = version == default
        if is_default and "deploy_id" in shared and "deploy_id" in settings:
            raise ConfigError(
                f"{file}: {table_name(model, version)} deploy_id: the default version already has "
                f"the one of {table_name(model)}"
            )
        inherited = {
            key: value for key, value in shared.items() if is_inherited(key, settings, is_default)
        }
        found.append(WrittenOut(version, inherited | settings, is_default))
    return shared, found


def is_inherited(key: str, settings: Mapping[str, object], is_default: bool) -> bool:
    if key in TEMPLATES and TEMPLATES & settings.keys():
        return False
    return key not in NAMES and (is_default or key not in OF_THE_DEFAULT)


def version_tables(
    model: str, table: Mapping[str, object], file: str
) -> dict[str, dict[str, object]]:
    """Version → its own settings, without inherited ones."""
    where = f"{file}: {table_name(model)}"
    found = table.get("versions", {})
    if not isinstance(found, dict) or not all(isinstance(own, dict) for own in found.values()):
        raise ConfigError(f"{where} versions: expected a table for each, written {WRITTEN}")
    for version, settings in found.items():
        if inner := dotted(settings):
            quoted = table_name(model, f"{version}.{inner}")
            raise ConfigError(f"{where} a version with dots needs quotes: {quoted}")
        decode({"name": version}, VersionName, f"{where} a version's")
        for key in ("kind", "version"):
            if key in settings:
                raise ConfigError(
                    f"{file}: {table_name(model, version)} {key}: a version has the kind of its "
                    "model and the name of its table; leave this out"
                )
    return found


def default_version(table: Mapping[str, object], versions: list[str], where: str) -> str | None:
    """The version that the plain name means; None if the table has a source of its own."""
    default = table.get("default_version")
    if default is not None and ("source" in table or not versions):
        why = "the table has a source of its own" if versions else "there are no versions"
        raise ConfigError(
            f"{where} default_version: {why}, so the plain name means the table itself; "
            "use version to name it"
        )
    if "source" in table or not versions:
        return None
    if "version" in table:
        raise ConfigError(
            f"{where} version: this table has no source that it could name; use default_version to "
            "choose the version that the plain name means"
        )
    if default not in versions:
        found = "missing; expected" if default is None else "expected"
        given = "" if default is None else f", got {toml(default)}"
        names = either(toml(version) for version in versions)
        raise ConfigError(f"{where} default_version: {found} {names}{given}")
    return str(default)


def dotted(table: Mapping[str, object]) -> str | None:
    """The rest of an unquoted name, whose dots TOML has read as nested tables."""
    is_nested = all(isinstance(value, dict) for value in table.values())
    return next(iter(table), None) if is_nested and not TABLES & table.keys() else None
