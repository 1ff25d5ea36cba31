"""`localinfra ps`, `stop` and `reload`: a running server's models, and what becomes of them."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import click
import msgspec

from localinfra.cli.completion import complete_models
from localinfra.cli.connect import running
from localinfra.cli.list import table
from localinfra.cli.memory import size
from localinfra.cli.ports import listener_on
from localinfra.config.settings import is_local
from localinfra.errors import ApiError

HEADER = ("MODEL", "KIND", "STATE", "MEMORY", "PREFIXES", "CONTEXT")


class RunningCard(msgspec.Struct):
    id: str
    kind: str
    state: str
    memory: dict[str, int] = {}  # bytes by device
    prefix_memory: int = 0  # bytes of main memory; also while it is unloaded
    context_length: int | None = None


class RunningCards(msgspec.Struct):
    data: list[RunningCard]


class Reloaded(msgspec.Struct):
    added: list[str]
    changed: list[str]
    removed: list[str]
    needs_restart: list[str]


def server_options(command: click.decorators.FC) -> click.decorators.FC:
    for option in (
        click.option("--config", type=click.Path(path_type=Path), help="Another models.toml."),
        click.option("--key", envvar="LOCALINFRA_API_KEY", help="Its API key."),
        click.option("--url", envvar="LOCALINFRA_URL", help="The server to ask."),
    ):
        command = option(command)
    return command


@click.command()
@server_options
def ps(url: str | None, key: str | None, config: Path | None) -> None:
    """Show the models that a running server has in memory."""
    client = running(url, key, config)
    cards = client.get("/v1/models?all=true", RunningCards).data
    is_shown = ("loaded", "loading", "failed", "quarantined")
    rows = [row(card) for card in cards if card.state in is_shown or card.prefix_memory]
    if not rows:
        click.echo(f"{client.url} has no model in memory: the first request loads one.")
        return
    for line in table([HEADER, *rows]):
        click.echo(line)


def row(card: RunningCard) -> Sequence[str]:
    memory = ", ".join(f"{size(count)} {device}" for device, count in card.memory.items())
    state = "unloaded" if card.state == "present" else card.state
    prefixes = size(card.prefix_memory) if card.prefix_memory else "-"
    return card.id, card.kind, state, memory or "-", prefixes, str(card.context_length or "-")


@click.command()
@click.argument("model", required=False, shell_complete=complete_models)
@server_options
def stop(model: str | None, url: str | None, key: str | None, config: Path | None) -> None:
    """Unload MODEL once its requests have ended; without MODEL, end the server on this machine."""
    client = running(url, key, config)
    if model is not None:
        card = client.post(f"/v1/models/{quote(model, safe='')}/unload", {}, RunningCard)
        click.echo(f"{card.id} is not in memory any more.")
        return
    is_here = url is None or is_local(client.host)
    holder = listener_on(client.port or 80) if is_here else None
    if holder is None or not holder.is_server:
        what = f"{holder} listens there" if holder else "its process can't be found from here"
        raise ApiError(f"{client.url} is not ended: {what}. End the server where it was started.")
    os.kill(holder.pid, signal.SIGTERM)
    click.echo(f"{holder} ends once its running answers are finished.")


@click.command()
@server_options
def reload(url: str | None, key: str | None, config: Path | None) -> None:
    """Let a running server read models.toml again."""
    changes = running(url, key, config).post("/v1/models/reload", {}, Reloaded)
    found = {"added": changes.added, "changed": changes.changed, "removed": changes.removed}
    for what, names in found.items():
        for name in names:
            click.echo(f"{what}: {name}")
    if not any(found.values()):
        click.echo("No model has changed.")
    if changes.needs_restart:
        click.echo(f"Only a restart changes {', '.join(changes.needs_restart)} of [server].")
