"""`localinfra key new`, `list` and `revoke`: the named keys in the data folder's file.

Servers look at the file themselves; no command here asks one.
"""

import datetime
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import msgspec
from click.shell_completion import CompletionItem
from msgspec import UNSET, UnsetType

from localinfra.cli.completion import complete_models
from localinfra.cli.list import table
from localinfra.config import settings as config_file
from localinfra.config.tables import suggestion
from localinfra.errors import ApiError, ConfigError
from localinfra.keys import file
from localinfra.keys.record import (
    MAX_NUMBER,
    KeyLimits,
    KeyName,
    KeyRecord,
    hash_of,
    make_key,
    utc_now,
)
from localinfra.models import catalog

HEADER = ("NAME", "ID", "CREATED", "EXPIRES", "RPM", "TPM", "CONCURRENT", "MODELS", "MANAGES")
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
LIFETIME = re.compile(r"(?P<number>[1-9]\d{0,5})(?P<unit>[mhdw])", re.ASCII)
COUNT = click.IntRange(1, MAX_NUMBER)


class Expiry(click.ParamType[datetime.datetime]):
    """A time in the future, such as 30d or 2027-01-31."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime.datetime:
        now, text = utc_now(), str(value).strip()
        try:
            if found := LIFETIME.fullmatch(text):
                lasts = datetime.timedelta(**{UNITS[found["unit"]]: int(found["number"])})
                return (now + lasts).replace(microsecond=0)
            day = datetime.date.fromisoformat(text)
        except (ValueError, OverflowError):
            self.fail(f"{text!r} is no time: write 12h, 30d, 8w or a day such as 2027-01-31.")
        time = datetime.datetime.combine(day, datetime.time(), datetime.UTC)
        if time <= now:
            self.fail(f"{text} is over: name a later day.")
        return time


class ShownKey(msgspec.Struct, kw_only=True):
    """A key as JSON has it."""

    key: str | UnsetType = UNSET  # itself, when it is new: nothing else ever shows it
    name: str
    id: str
    created: datetime.datetime
    expires: datetime.datetime | None
    rpm: int | None
    tpm: int | None
    concurrent: int | None
    models: tuple[str, ...] | None
    may_manage: bool


@click.group()
def key() -> None:
    """Make, list and revoke API keys with names and limits.

    Running servers of this user know of a change within a second.
    """


@key.command("new")
@click.argument("name")
@click.option("--rpm", type=COUNT, help="Requests per minute, at most.")
@click.option("--tpm", type=COUNT, help="Tokens per minute, of prompts and answers, at most.")
@click.option("--concurrent", type=COUNT, help="Requests at the same time, at most.")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_models,
    help="A model that it may use; may be repeated. Default: all.",
)
@click.option(
    "--manage", is_flag=True, help="It may load, pull and delete models, and see metrics."
)
@click.option("--expires", type=Expiry(), help="12h, 30d, 8w or a day; default: never.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def new(
    name: str,
    rpm: int | None,
    tpm: int | None,
    concurrent: int | None,
    models: Sequence[str],
    manage: bool,
    expires: datetime.datetime | None,
    as_json: bool,
) -> None:
    """Make a key, and show it this once: only its hash is kept.

    The key alone goes to the output, so that KEY=$(localinfra key new NAME) has it.
    """
    check_name(name)
    path, made = file.default_path(), ""
    is_first = file.read(path) is None
    limits = KeyLimits(rpm=rpm, tpm=tpm, concurrent=concurrent)

    def add(keys: Sequence[KeyRecord]) -> Sequence[KeyRecord]:
        nonlocal made
        if name in (key.name for key in keys):
            raise ApiError(
                f"There is a key of {name} already: choose another name, or revoke it first with "
                f"`localinfra key revoke {name}`."
            )
        made = make_key({key.label for key in keys})
        return [
            *keys,
            KeyRecord(
                name=name,
                sha256=hash_of(made.encode()).hex(),
                created=utc_now().replace(microsecond=0),
                expires=expires,
                limits=limits,
                models=tuple(models) or None,
                may_manage=manage,
            ),
        ]

    record = file.change(path, add).keys[-1]
    if as_json:
        echo_json(shown(record, made))
    else:
        click.echo(made)
    for line in advice(record, models, is_first=is_first):
        click.echo(line, err=True)


def check_name(name: str) -> None:
    """Raises ApiError."""
    try:
        msgspec.convert(name, KeyName)
    except msgspec.ValidationError:
        raise ApiError(
            f"{name!r} can't be a key's name: use up to 64 letters, digits and . _ @ -, the first "
            "a letter or digit."
        ) from None


def advice(record: KeyRecord, models: Sequence[str], *, is_first: bool) -> Iterator[str]:
    """What to know and to do next."""
    yield f"That is the key of {record.name}. It is not shown again: only its hash is kept."
    yield "Clients send it as 'Authorization: Bearer KEY'; commands here read LOCALINFRA_API_KEY."
    try:
        config = config_file.load()
        known, is_keyed = catalog.discover(config).names_by_id, bool(config.server.api_keys)
    except ConfigError:
        return  # `serve` says what is wrong
    if is_first and not is_keyed:
        yield (
            "It is the first key: from now on this user's servers ask everyone for one, also those "
            "that are running, their page and commands such as `localinfra chat`."
        )
    if is_first and not is_keyed and not record.may_manage:
        yield "No key may manage models yet: `localinfra key new NAME --manage` makes one."
    for model in models:
        if model not in known:
            yield f"No model is called {model} yet; {suggestion(model, known)}"


@key.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_keys(as_json: bool) -> None:
    """List the keys with their limits, never the keys themselves.

    ID is what metrics, costs and logs call a key's holder.
    """
    path = file.default_path()
    book = file.read(path)
    keys = book.keys if book else ()
    if as_json:
        echo_json([shown(record) for record in keys])
    elif keys:
        for line in table([HEADER, *map(cells, keys)]):
            click.echo(line)
    elif book is None:
        click.echo("There is no named key yet: `localinfra key new NAME` makes one.")
    else:
        click.echo(none_left(path))


def cells(record: KeyRecord) -> Sequence[str]:
    limits = (record.limits.rpm, record.limits.tpm, record.limits.concurrent)
    expires = "never"
    if record.expires:
        expires = day_of(record.expires) if record.is_valid(utc_now()) else "has expired"
    return (
        record.name,
        record.label,
        day_of(record.created),
        expires,
        *("-" if limit is None else f"{limit:,}" for limit in limits),
        "all" if record.models is None else ", ".join(record.models),
        "yes" if record.may_manage else "no",
    )


def day_of(time: datetime.datetime) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M")


def complete_keys(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    try:
        book = file.read(file.default_path())
    except ConfigError:
        return []
    names = [record.name for record in book.keys] if book else []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@key.command("revoke")
@click.argument("name", shell_complete=complete_keys)
def revoke(name: str) -> None:
    """Refuse the key of NAME from its next request on; answers that are running go on."""
    path = file.default_path()

    def without(keys: Sequence[KeyRecord]) -> Sequence[KeyRecord]:
        names = [key.name for key in keys]
        if name not in names:
            hint = suggestion(name, names) if names else "there is none."
            raise ApiError(f"There is no key of {name!r}; {hint}")
        return [key for key in keys if key.name != name]

    if file.read(path) is None:
        raise ApiError("There is no named key: `localinfra key new NAME` makes one.")
    book = file.change(path, without)
    click.echo(f"Servers refuse the key of {name} within a second; its running answers go on.")
    if not book.keys:
        click.echo(none_left(path))


def none_left(path: Path) -> str:
    return (
        "No named key is left, and servers go on asking for one: `localinfra key new NAME` makes "
        f"it. To have them open to this machine again, delete {path}."
    )


def shown(record: KeyRecord, key: str | UnsetType = UNSET) -> ShownKey:
    return ShownKey(
        key=key,
        name=record.name,
        id=record.label,
        created=record.created,
        expires=record.expires,
        rpm=record.limits.rpm,
        tpm=record.limits.tpm,
        concurrent=record.limits.concurrent,
        models=record.models,
        may_manage=record.may_manage,
    )


def echo_json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())
