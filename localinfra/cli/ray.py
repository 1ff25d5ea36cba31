"""`localinfra ray`: serves models.toml on Ray Serve, by many processes on one or many machines."""

import contextlib
import logging
import queue
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from msgspec.structs import replace

from localinfra import logs
from localinfra.cli.child import free_port
from localinfra.config import settings as config_file
from localinfra.config.settings import Config, is_local, local_url
from localinfra.errors import ConfigError
from localinfra.keys import file as key_file
from localinfra.models import catalog as catalog_file
from localinfra.scale.groups import Groups

logger = logging.getLogger(__name__)

INSTALL = "Ray is not installed here: pip install 'localinfra[ray]'"


@click.command()
@click.argument("path", required=False, type=click.Path(path_type=Path), metavar="[MODELS.TOML]")
@click.option(
    "--address",
    envvar="RAY_ADDRESS",
    help="A Ray cluster to serve on, such as auto. Default: one is started on this machine.",
)
@click.option("--host", help="Address to listen on, on each machine. Default: the settings' host.")
@click.option("--port", type=click.IntRange(0, 65535), help="0 takes any free port. Default: 8000.")
@click.option("--stop", is_flag=True, help="End what this command has started on --address.")
def ray(
    path: Path | None, address: str | None, host: str | None, port: int | None, stop: bool
) -> None:
    """Serve models.toml by many processes, on this machine or a cluster of Ray.

    Without --address, serves until Ctrl-C, and reads models.toml again on SIGHUP. With one, returns
    once all is ready; the same command again replaces what runs there, a few replicas at a time.
    """
    if stop and address is None:
        raise ConfigError("--stop: say where it runs with --address; else Ctrl-C ends it")
    given: dict[str, object] = {k: v for k, v in (("host", host), ("port", port)) if v is not None}
    if port == 0:
        given["port"] = free_port()
    config = read(path, given)
    logs.configure(config.server.log_level, config.server.log_format)
    try:
        from localinfra import ray_serve
    except ImportError as error:
        raise ConfigError(f"{INSTALL} ({error})") from None
    with refusing():
        is_own = ray_serve.join(address)
    if stop:
        ray_serve.end()
        return
    try:
        with refusing():
            ray_serve.deploy(config)
        click.echo(banner(config, ray_serve.statuses(), is_own=is_own))
        if is_own:
            serve_until_signal(lambda: ray_serve.deploy(read(path, given)))
    finally:
        if is_own:
            ray_serve.end()


def read(path: Path | None, given: dict[str, object]) -> Config:
    """The settings, checked. Raises ConfigError."""
    config = config_file.load(path)
    config = replace(config, server=replace(config.server, **given))
    book = key_file.read(key_file.default_path())
    config.server.check_exposure(has_named_keys=book is not None and bool(book.keys))
    Groups(config.scale, catalog_file.discover(config), config.path)
    if config.server.ollama_port is not None:
        logger.warning("ollama_port has no effect on Ray: Ollama's clients are served at `port`")
    return config


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Ray's own errors in one line."""
    try:
        yield
    except (RuntimeError, ConnectionError, ValueError) as error:
        raise ConfigError(f"Ray: {error}") from None


def serve_until_signal(deploy: Callable[[], None]) -> None:
    """Until SIGINT or SIGTERM. SIGHUP deploys again; what is wrong then changes nothing."""
    came: queue.SimpleQueue[int] = queue.SimpleQueue()
    listened = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    for number in listened:
        signal.signal(number, lambda number, frame: came.put(number))
    while came.get() == signal.SIGHUP:
        try:
            with refusing():
                deploy()
        except ConfigError as error:
            logger.error("all stays as it was: %s", error)
        else:
            logger.info("models.toml was read again, and all replicas were replaced")


def banner(config: Config, states: dict[str, dict[str, int]], *, is_own: bool) -> str:
    url = local_url(config.server)
    lines = [f"localinfra answers at {url}/v1"]
    if not is_local(config.server.host):
        lines.append("and on each machine of the cluster with a replica, at the same port")
    for name, count in states.items():
        lines.append(f"  {name}: {sum(count.values())}")
    end = "Press Ctrl-C to stop." if is_own else "It goes on; the same command with --stop ends it."
    return "\n".join([*lines, "", end])
