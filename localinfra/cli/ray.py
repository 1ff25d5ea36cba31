"""`localinfra ray`: serves models.toml on Ray Serve, by many processes on one or many machines."""

import contextlib
import logging
import queue
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import click
from msgspec.structs import replace

from localinfra import logs
from localinfra.config import settings as config_file
from localinfra.config.settings import Config, ServerSettings, is_local, local_url
from localinfra.errors import ConfigError
from localinfra.keys import file as key_file
from localinfra.models import catalog as catalog_file
from localinfra.scale.groups import Groups

logger = logging.getLogger(__name__)

INSTALL = "Ray is not installed here: pip install 'localinfra[ray]'"
SIGNAL_POLL_S = 0.2


@click.command()
@click.argument("path", required=False, type=click.Path(path_type=Path), metavar="[MODELS.TOML]")
@click.option(
    "--address",
    envvar="RAY_ADDRESS",
    help="A Ray cluster to serve on, such as auto. Default: one is started on this machine.",
)
@click.option("--host", help="Address to listen on, on each machine. Default: the settings' host.")
@click.option("--port", type=click.IntRange(0, 65535), help="0 takes any free port. Default: 8000.")
@click.option(
    "--replace-all",
    is_flag=True,
    help="Replace all that runs there, as other files may be behind the same names.",
)
@click.option("--stop", is_flag=True, help="End what this command has started on --address.")
def ray(
    path: Path | None,
    address: str | None,
    host: str | None,
    port: int | None,
    replace_all: bool,
    stop: bool,
) -> None:
    """Serve models.toml by many processes, on this machine or a cluster of Ray.

    Without --address, serves until Ctrl-C, and reads models.toml again on SIGHUP. With one, returns
    once all is ready; the same command again replaces the groups whose part of models.toml has
    changed, a few replicas at a time.
    """
    if address in ("", "local"):
        address = None
    if stop:
        end_on(address)
        return
    given: dict[str, object] = {k: v for k, v in (("host", host), ("port", port)) if v is not None}
    config = read(path, given)
    logs.configure(config.server.log_level, config.server.log_format)
    ray_serve = library()
    is_own = address is None
    if is_own:
        config = claimed(config)
    with refusing():
        ray_serve.join(address)
    try:
        if running := ray_serve.listening():
            config = staying(config, running, given)
        elif not is_own:
            config = claimed(config)
        with refusing():
            ray_serve.deploy(config, may_grow=not is_own, replaces_all=replace_all)
        click.echo(banner(config, ray_serve.statuses(), is_own=is_own))
        if is_own:
            serve_until_signal(
                lambda: ray_serve.deploy(staying(read(path, given), ray_serve.listening(), {}))
            )
            click.echo("Running answers may go on for half a minute. Press Ctrl-C to end at once.")
    finally:
        if is_own:
            ray_serve.end()


def library() -> ModuleType:
    """`ray_serve`. Raises ConfigError without Ray."""
    try:
        from localinfra import ray_serve
    except ImportError as error:
        raise ConfigError(f"{INSTALL} ({error})") from None
    return ray_serve


def end_on(address: str | None) -> None:
    """Needs no models.toml. Raises ConfigError."""
    if address is None:
        raise ConfigError(
            "--stop: name the cluster, such as --address auto. What serves on its own Ray ends by "
            "Ctrl-C"
        )
    ray_serve = library()
    with refusing():
        ray_serve.join(address)
        has_ended = ray_serve.stop()
    click.echo("It has ended." if has_ended else "localinfra does not run there.")


def read(path: Path | None, given: Mapping[str, object]) -> Config:
    """The settings, checked. Raises ConfigError."""
    config = config_file.load(path)
    config = replace(config, server=replace(config.server, **given))
    check_exposure(config.server)
    Groups(config.scale, catalog_file.discover(config), config.path)
    if config.server.ollama_port is not None:
        logger.warning("ollama_port has no effect on Ray: Ollama's clients are served at `port`")
    return config


def check_exposure(settings: ServerSettings) -> None:
    """Raises ConfigError."""
    book = key_file.read(key_file.default_path())
    settings.check_exposure(has_named_keys=book is not None and bool(book.keys))


def claimed(config: Config) -> Config:
    """With a port that is free on this machine. Ray's proxies share theirs with all programs that
    ask for that: another one's would get half of the requests. Raises ConfigError."""
    from localinfra.cli.serve import take_address

    sockets = take_address(config.server.host, config.server.port)
    port = sockets[0].getsockname()[1]
    for one in sockets:
        one.close()
    return replace(config, server=replace(config.server, port=port))


def staying(config: Config, running: Mapping[str, object], given: Mapping[str, object]) -> Config:
    """With the address and certificate that Ray Serve was first started with: what may be open to
    whom is judged by these. `given`: by options. Raises ConfigError."""
    place = f"{running['host']}:{running['port']}"
    asked = {"host": config.server.host, "port": config.server.port or running["port"]}
    if asked["host"] == "localhost":
        asked["host"] = "127.0.0.1"
    for name, value in asked.items():
        if name in given and value != running[name]:
            raise ConfigError(
                f"Ray Serve listens on {place} there since its first start: leave out --{name}, or "
                "end it by --stop first"
            )
    settings = replace(config.server, **running)
    check_exposure(settings)
    if asked.items() - running.items() or config.server.tls_cert != settings.tls_cert:
        logger.warning(
            "Ray Serve stays as it was first started, on %s%s: end it to change that",
            place,
            " with a certificate" if settings.tls_cert else "",
        )
    return replace(config, server=settings)


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Ray's own errors in one line."""
    try:
        yield
    except (RuntimeError, ConnectionError, TimeoutError, ValueError) as error:
        raise ConfigError(f"Ray: {error}") from None


def serve_until_signal(deploy: Callable[[], None]) -> None:
    """Until SIGINT or SIGTERM; from then on, another one is a KeyboardInterrupt. SIGHUP deploys
    again; what is wrong then changes nothing."""
    came: queue.SimpleQueue[int] = queue.SimpleQueue()
    listened = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    for number in listened:
        signal.signal(number, lambda number, frame: came.put(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, listened)
    while next_of(came) == signal.SIGHUP:
        try:
            with refusing():
                deploy()
        except ConfigError as error:
            logger.error("all stays as it was: %s", error)
        else:
            logger.info("models.toml was read again, and replicas that it changes were replaced")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # raises KeyboardInterrupt


def next_of(came: "queue.SimpleQueue[int]") -> int:
    """A signal that the system hands to another thread, such as one of Ray's, does not wake this
    one, which alone runs its handler."""
    while True:
        with contextlib.suppress(queue.Empty):
            return came.get(timeout=SIGNAL_POLL_S)


def banner(config: Config, states: dict[str, dict[str, int]], *, is_own: bool) -> str:
    url = local_url(config.server)
    lines = [f"localinfra answers at {url}/v1"]
    if not is_local(config.server.host):
        lines.append("and on each machine of the cluster with a replica, at the same port")
    for name, count in states.items():
        lines.append(f"  {name}: {sum(count.values())}")
    end = "Press Ctrl-C to stop." if is_own else "It goes on until --stop at this --address."
    return "\n".join([*lines, "", end])
