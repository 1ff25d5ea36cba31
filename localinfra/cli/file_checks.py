"""Whether the models' files are what their tables say: checked before models are served."""

from pathlib import Path

import click

from localinfra.config.settings import shipped_file
from localinfra.errors import ConfigError
from localinfra.models import files
from localinfra.models.catalog import Catalog, table_of


def check_files(catalog: Catalog, path: Path) -> None:
    """Raises ConfigError if files are not what their tables say, with a line for each. A hub folder
    may be half downloaded: that is only a warning, and the other models are served.

    `path` is the settings file; warns if it has no model.
    """
    if not catalog.entries:
        click.echo(no_models(path), err=True)
    refused = []
    for name, entry in catalog.entries.items():
        for problem in files.problems(entry):
            line = f"{path}: {table_of(name, entry)} {problem}"
            if entry.source.is_repository:
                click.echo(f"{line}. {name} can't be used until that is fixed.", err=True)
            else:
                refused.append(line)
    if refused:
        raise ConfigError("\n".join(refused))


def no_models(path: Path) -> str:
    return (
        f"There is no model to serve yet. `localinfra pull hf:OWNER/REPO` fetches one, which then "
        f"needs no table; or add tables to {path}, such as\n\n"
        '  [model."my-model"]\n  kind = "text"\n  source = "/models/my-model.gguf"\n\n'
        f"More examples are in {shipped_file()}.\n"
    )
