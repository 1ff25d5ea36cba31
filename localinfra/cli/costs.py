"""`localinfra costs`: what each key has used of each model, as a table or as JSON."""

from collections.abc import Mapping, Sequence

import click
import msgspec

from localinfra.cli.list import table
from localinfra.costs import Book, CostRow, CostsUnreadable, default_path, read, reset
from localinfra.errors import ApiError, ConfigError
from localinfra.keys import file as key_file

HEADER = ("KEY", "MODEL", "REQUESTS", "TOKENS IN", "CACHED", "TOKENS OUT", "IMAGES", "USD", "SINCE")


@click.command("costs")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the times of last use.")
@click.option("--reset", "is_reset", is_flag=True, help="Show the costs, then reset them to zero.")
def show_costs(as_json: bool, is_reset: bool) -> None:
    """Show what each key has used of each model, and its price.

    Running servers update this every few seconds. Prices are those in models.toml at the time of
    each request. A key is shown as the first 8 digits of its SHA-256, with its name if it has one.
    """
    path = default_path()
    try:
        book = read(path)
        if as_json:
            click.echo(msgspec.json.format(msgspec.json.encode(book)).decode())
        else:
            show(book)
    except CostsUnreadable as error:
        if not is_reset:
            raise ApiError(str(error)) from None
    if is_reset:
        try:
            reset(path)
        except OSError as error:
            raise ApiError(f"{path} can't be written: {error.strerror or error}") from None
        click.echo(f"reset to zero: {path}", err=True)


def show(book: Book) -> None:
    if not book.rows:
        click.echo("Nothing has been used yet.")
        return
    names = names_by_label()
    rows = sorted(book.rows, key=lambda row: (names.get(row.key, ""), row.key, row.model))
    if len(rows) > 1:
        total = CostRow(key="all", model="", first_at=book.since, last_at=book.since)
        for row in rows:
            total.add(row)
        rows.append(total)
    for line in table([HEADER, *(cells(row, names.get(row.key)) for row in rows)]):
        click.echo(line)


def names_by_label() -> Mapping[str, str]:
    """Of the named keys; those that were revoked have none any more."""
    try:
        book = key_file.read(key_file.default_path())
    except ConfigError:
        return {}
    return {record.label: record.name for record in book.keys} if book else {}


def cells(row: CostRow, name: str | None) -> Sequence[str]:
    tokens = (row.prompt_tokens, row.cached_tokens, row.generated_tokens)
    counts = (f"{count:,}" for count in (row.requests, *tokens, row.images))
    since = row.first_at.astimezone().strftime("%Y-%m-%d %H:%M")
    who = f"{row.key} {name}" if name else row.key
    return who, row.model, *counts, f"{row.usd:.6f}", since
