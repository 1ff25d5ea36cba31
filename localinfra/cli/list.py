"""`localinfra list`: the catalogue as a table or as JSON."""

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from localinfra.cli.file_checks import no_models
from localinfra.config import settings as config_file
from localinfra.models import catalog, files
from localinfra.models.entries import KINDS, ModelEntry, Price

HEADER = ("MODEL", "KIND", "FILES", "CONTEXT", "PRICE", "ALIASES")


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """One model as `--json` prints it."""

    name: str
    kind: str
    files: str  # present, unusable, or in what way they are missing
    path: str | None
    remedy: str | None  # what to do if they are missing or unusable
    command: str | None  # the command that downloads them, if there is one
    context_length: int | None  # tokens; None: chosen at loading
    price: Price
    aliases: tuple[str, ...]
    version: str | None
    deploy_id: str | None
    description: str | None


@click.command("list")
@click.option("--config", "path", type=click.Path(path_type=Path), help="Another models.toml.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with paths and remedies.")
def list_models(path: Path | None, as_json: bool) -> None:
    """List the models and whether their files are here."""
    settings = config_file.load(path)
    rows = [row(name, entry) for name, entry in catalog.discover(settings).entries.items()]
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(rows)).decode())
        return
    if not rows:
        click.echo(no_models(settings.path))
        return
    for line in table([HEADER, *map(cells, rows)]):
        click.echo(line)
    click.echo(f"\nfrom {settings.path}; prices in USD per million tokens: input/output")
    for line in remedies(rows):
        click.echo(line)


def remedies(rows: Sequence[ModelRow]) -> list[str]:
    """What to do about missing files; commands come last, so that they can be copied together."""
    absent = [row for row in rows if row.path is None]
    unusable = [row for row in rows if row.files == files.UNUSABLE]
    lines = [f"{row.name}: {row.remedy}" for row in unusable]
    lines += [f"{row.name}: {row.remedy}" for row in absent if row.command is None]
    if commands := list(dict.fromkeys(row.command for row in absent if row.command)):
        lines += ["To get the missing files:", *(f"  {command}" for command in commands)]
    return ["", *lines] if lines else []


def row(name: str, entry: ModelEntry) -> ModelRow:
    path = entry.source.find()
    problems = "; ".join(files.problems(entry))
    return ModelRow(
        name=name,
        kind=entry.kind,
        files=files.state(entry),
        path=str(path) if path else None,
        remedy=(problems or None) if path else entry.source.remedy(name),
        command=None if path else entry.source.command(name),
        context_length=entry.details.context_length,
        price=entry.price,
        aliases=entry.aliases,
        version=entry.version,
        deploy_id=entry.deploy_id,
        description=entry.description,
    )


def cells(row: ModelRow) -> Sequence[str]:
    automatic = "auto" if "context_length" in KINDS[row.kind].__struct_fields__ else "-"
    context = str(row.context_length or automatic)
    return row.name, row.kind, row.files, context, price_cell(row.price), ", ".join(row.aliases)


def price_cell(price: Price) -> str:
    if price.image:
        return f"{price.image:g}/image"
    return f"{price.input:g}/{price.output:g}" if price.input or price.output else "-"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Pads every column to its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)) for row in rows)
    return [line.rstrip() for line in lines]
