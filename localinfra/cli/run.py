"""`localinfra run`: a chat, or one answer, with a model that is fetched first if need be."""

from pathlib import Path

import click

from localinfra.cli import pull
from localinfra.cli.chat import chat, options
from localinfra.cli.completion import complete_models
from localinfra.config import settings as config_file
from localinfra.config.settings import Config
from localinfra.errors import ApiError
from localinfra.models import catalog


@click.command()
@click.argument("model", shell_complete=complete_models)
@click.argument("prompt", required=False)
@options
@click.pass_context
def run(ctx: click.Context, /, model: str, config: Path | None, **others: object) -> None:
    """Talk with MODEL, fetched first if it is not here.

    MODEL is a name that `localinfra list` shows, or anything that `localinfra pull` takes. With
    PROMPT, or text on standard input, or both, it answers once and exits:

    \b
      localinfra run hf:OWNER/REPO:Q4_K_M "Name three rivers."
      cat notes.txt | localinfra run smollm2 "Explain this:"
    """
    if others["url"] is None:  # else that server's models
        model = fetched(model, config_file.load(config), config)
    ctx.invoke(chat, model=model, config=config, **others)


def fetched(text: str, settings: Config, config: Path | None) -> str:
    """The name of the model, once its files are here. Raises ApiError."""
    known = catalog.discover(settings)
    name = known.names_by_id.get(text)
    if name and known.entries[name].source.find():
        return name
    plans = pull.prepare(text, known, settings.server, to_stderr=True)
    result, *_ = [pull.carry_out(plan) for plan in plans]
    name = catalog.discover(config_file.load(config)).name_at(result)
    if name is None:
        raise ApiError(
            f"{result} is here now, but needs a table in models.toml: `localinfra pull` prints it."
        )
    return name
