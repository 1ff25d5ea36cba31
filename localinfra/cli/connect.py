"""Which server a command talks to: the one at --url, the settings' one, or one that it starts."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import click
import msgspec

from localinfra.cli import child
from localinfra.cli.cards import Cards
from localinfra.cli.client import Client, ServerRefused, ServerUnreachable
from localinfra.cli.file_checks import check_files
from localinfra.cli.progress import ProgressLine
from localinfra.config import settings as config_file
from localinfra.config.settings import ServerSettings, local_url
from localinfra.errors import ApiError
from localinfra.models import catalog as catalog_file
from localinfra.models.catalog import Catalog


def connect(
    stack: ExitStack,
    url: str | None,
    key: str | None,
    config: Path | None,
    check: Callable[[Catalog], None] = lambda catalog: None,
    model: str | None = None,
) -> Client:
    """Returns a client of a server that answers. `stack` stops the server if it was started here.

    Without a `url`, looks where the settings say that `serve` listens, with their first key if
    none is given; a named `model` must be served there. `check` gets the catalogue before a server
    is started.
    Raises ApiError if no server can be used and ConfigError if the settings are invalid.
    """
    if url is not None:
        return answering(url, key)
    settings = config_file.load(config)
    catalog = catalog_file.discover(settings)
    running = find_running(settings.server, key)
    if running and (serves_all(running, catalog, model) if config else serves(running, model)):
        return running
    check(catalog)
    check_files(catalog, settings.path)
    line = ProgressLine()
    try:
        server = child.server(
            settings.path if config else None,
            lambda waited_s: line.wait(f"starting a server: {waited_s:.0f} s"),
        )
        return stack.enter_context(server)
    finally:
        line.end()


def answering(url: str, key: str | None, certificate: str | None = None) -> Client:
    """A client of the server at `url`; `certificate` as for `Client`. Raises ApiError if none
    answers."""
    client = Client(url, key, certificate=certificate)
    child.is_healthy(client)
    return client


def running(url: str | None, key: str | None, config: Path | None) -> Client:
    """A client of the server at `url`, else of the one of the settings. Raises ApiError if none
    answers, and ConfigError."""
    if url is not None:
        return answering(url, key)
    settings = config_file.load(config).server
    found = find_running(settings, key)
    if found is None:
        at = local_url(settings)
        raise ApiError(f"No server answers at {at}: start one with `localinfra serve`.")
    return found


def find_running(server: ServerSettings, key: str | None) -> Client | None:
    if not server.port:
        return None  # any free port: there is no way to know which
    client = Client(local_url(server), key, certificate=server.tls_cert)
    if not client.key and server.api_keys:
        client.key = server.api_keys[0]
    try:
        child.is_healthy(client)
    except (ServerUnreachable, ServerRefused):  # nothing there, or another program
        return None
    return client


def serves(client: Client, model: str | None) -> bool:
    """Whether the server knows the model, if one is named; it may have been started with others."""
    if model is None:
        return True
    cards = client.get("/v1/models?all=true", Cards).data
    if any(model in (card.id, *card.aliases) for card in cards):
        return True
    try:  # a deployment, or a model that has just been pulled
        client.get(f"/v1/models/{quote(model, safe='')}", Name)
    except ServerRefused as error:
        if error.status != 404:
            raise
        click.echo(f"The server at {client.url} does not serve {model}: starting one.", err=True)
        return False
    return True


class Name(msgspec.Struct):
    id: str


class Names(msgspec.Struct):
    data: list[Name]


def serves_all(client: Client, catalog: Catalog, model: str | None = None) -> bool:
    """Whether the server has all models of the catalogue; another file's may listen there. Of a
    key that may use only some of them, these count, and the `model` must be one."""
    served = {name.id for name in client.get("/v1/models?all=true", Names).data}
    if served >= set(catalog.names):
        return True
    if client.key and served and served < set(catalog.names):
        return serves(client, model)
    click.echo(f"The server at {client.url} serves other models: starting one.", err=True)
    return False
