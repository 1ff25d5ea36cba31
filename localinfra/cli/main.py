"""The `localinfra` command: its subcommands, and how their errors are printed.

Imports a subcommand's module only when it is called, so that each starts fast.
"""

import errno
import os
from importlib import import_module
from typing import NoReturn

import click

from localinfra import __version__, garbage
from localinfra.errors import ApiError, ConfigError

COMMANDS = {  # name → (its click object in localinfra.cli.NAME, what it does)
    "serve": ("serve", "Serve the models of models.toml over HTTP."),
    "ray": ("ray", "Serve them by many processes, on one machine or many, with Ray."),
    "run": ("run", "Talk with a model, fetched first if need be."),
    "chat": ("chat", "Talk with a model in the terminal."),
    "launch": ("launch", "Start a coding agent on a model of a running server."),
    "image": ("image", "Make an image from a prompt, or from a picture and a prompt."),
    "pull": ("pull", "Fetch a model from Hugging Face, Ollama's registry or a URL."),
    "list": ("list_models", "List the models and whether their files are here."),
    "ps": ("ps", "Show the models that a running server has in memory."),
    "top": ("top", "Show what a running server does, until q."),
    "stop": ("stop", "Unload a model, or end the running server."),
    "reload": ("reload", "Let a running server read models.toml again."),
    "show": ("show", "Show what a model is, and what it takes."),
    "rm": ("remove_models", "Delete the files of pulled models."),
    "service": ("service", "Let the system start the server, at each login."),
    "key": ("key", "Make, list and revoke API keys with names and limits."),
    "completion": ("completion", "Print the script that completes commands in a shell."),
    "costs": ("show_costs", "Show what each key has used of each model, and its price."),
    "optimize": ("optimize", "Measure faster types of a model's weights on this CPU."),
    "setup": ("setup", "Install the llama.cpp that suits this machine."),
    "doctor": ("doctor", "Check this installation and its models, and say what to fix."),
}
MODULES = dict.fromkeys(("ps", "stop", "reload"), "running")  # where it isn't the command's name


class Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = MODULES.get(cmd_name, cmd_name)
        with garbage.paused():
            command = getattr(import_module(f"localinfra.cli.{module}"), COMMANDS[cmd_name][0])
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            ctx.color = False  # https://no-color.org; commands inherit it
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            fail(str(error), 2)
        except ApiError as error:
            fail(error.message, 1)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            fail(f"There is no space left to write to: {error.filename or 'the output'}", 1)


def fail(message: str, code: int) -> NoReturn:
    for line in message.splitlines():
        click.echo(f"error: {line}", err=True)
    raise click.exceptions.Exit(code)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
)
@click.version_option(__version__, prog_name="localinfra")
@click.pass_context
def main(context: click.Context) -> None:
    """Serve GGUF chat models from this machine to any OpenAI client.

    Without a command: show what can be done here and now.
    """
    if context.invoked_subcommand is None:
        from localinfra.cli.overview import show

        show()
