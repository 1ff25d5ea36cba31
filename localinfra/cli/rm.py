"""`localinfra rm`: deletes the files of pulled models."""

from collections.abc import Sequence
from pathlib import Path

import click

from localinfra.cli.completion import complete_models
from localinfra.cli.memory import size
from localinfra.config import settings as config_file
from localinfra.errors import ApiError
from localinfra.models import catalog
from localinfra.models.fetch.removal import plan_removal, remove


@click.command("rm")
@click.argument(
    "models", nargs=-1, required=True, metavar="MODEL...", shell_complete=complete_models
)
@click.option("--config", "path", type=click.Path(path_type=Path), help="Another models.toml.")
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
def remove_models(models: Sequence[str], path: Path | None, yes: bool) -> None:
    """Delete the files of pulled MODELs.

    They may be in the Hugging Face hub's cache, which other programs use too. A model's table in
    models.toml stays, and so do files that were not pulled.
    """
    known = catalog.discover(config_file.load(path))
    planned = {}
    for given in models:
        name, entry = known.find(given)
        planned[name] = plan_removal(name, entry.source)
    for name, removal in planned.items():
        click.echo(f"{name}: {size(removal.size_bytes)} in {removal.names[0].parent}")
    if not yes and not click.confirm("Delete these files?"):
        raise click.exceptions.Exit(1)
    for name, removal in planned.items():
        try:
            remove(removal)
        except OSError as error:
            raise ApiError(f"{name}: {error.filename}: {error.strerror or error}") from None
        click.echo(f"{name} is removed.")
