"""`localinfra completion`: the script that lets a shell complete commands, options and models."""

import click
from click.shell_completion import CompletionItem, get_completion_class

SHELLS = {  # where each reads such scripts at its start
    "bash": "~/.bashrc",
    "zsh": "~/.zshrc",
    "fish": "~/.config/fish/completions/localinfra.fish",
}
VARIABLE = "_LOCALINFRA_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
def completion(shell: str) -> None:
    """Print the script that completes commands and models in SHELL.

    \b
      bash:  echo 'eval "$(localinfra completion bash)"' >> ~/.bashrc
      zsh:   echo 'eval "$(localinfra completion zsh)"' >> ~/.zshrc
      fish:  localinfra completion fish > ~/.config/fish/completions/localinfra.fish
    """
    from localinfra.cli.main import main

    made = get_completion_class(shell)
    assert made, "click has all three"
    click.echo(made(main, {}, "localinfra", VARIABLE).source())


def complete_models(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The models of models.toml and those without a table. Reads names, asks no server."""
    from localinfra.config import settings as config_file
    from localinfra.errors import ConfigError
    from localinfra.models import catalog

    try:
        known = catalog.discover(config_file.load(ctx.params.get("path")))
    except ConfigError:
        return []
    return [CompletionItem(name) for name in known.names_by_id if name.startswith(incomplete)]
