"""`localinfra serve`: runs the server in the foreground, from its banner to a clean end."""

import asyncio
import contextlib
import errno
import faulthandler
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from localinfra import garbage, logs, outlet, supervisor
from localinfra.api.sockets.binding import bind
from localinfra.children import follow_parent
from localinfra.cli.ending import end_within, leave
from localinfra.cli.file_checks import check_files
from localinfra.cli.ports import listener_on
from localinfra.config.settings import LOG_LEVELS, ServerSettings
from localinfra.costs import Ledger, default_path
from localinfra.errors import ApiError, ConfigError
from localinfra.executor import in_daemon_thread
from localinfra.interpreter import eager_switches
from localinfra.keys import file as key_file
from localinfra.keys.holders import Holders
from localinfra.models.catalog import Catalog
from localinfra.models.entries import TextModelEntry
from localinfra.models.histories import deaths
from localinfra.origin import Origin
from localinfra.runtime import Runtime

if TYPE_CHECKING:
    from localinfra.cli.foreground import Foreground

logger = logging.getLogger(__name__)


@click.command()
@click.argument("models", nargs=-1, metavar="[FILE]...")
@click.option(
    "--host", help="Address to listen on. Default: the settings' host, else this machine only."
)
@click.option("--port", type=click.IntRange(0, 65535), help="0 takes any free port. Default: 8000.")
@click.option("--tls-cert", type=click.Path(), help="Speak TLS, with this certificate in PEM.")
@click.option("--tls-key", type=click.Path(), help="Its private key. Default: in the same file.")
@click.option("--no-tls", is_flag=True, help="Speak plain HTTP, whatever the settings say.")
@click.option(
    "--config", "path", type=click.Path(path_type=Path), help="Settings instead of models.toml."
)
@click.option(
    "--log-level", type=click.Choice(LOG_LEVELS), help="Default: the settings' level, else info."
)
@click.option(
    "--supervised",
    is_flag=True,
    help="Start the server again when it dies, while clients wait. Not on Windows.",
)
@click.option(
    "--verbose", "-v", is_flag=True, help="Log every request and llama.cpp's messages: level debug."
)
def serve(
    models: Sequence[str],
    host: str | None,
    port: int | None,
    tls_cert: str | None,
    tls_key: str | None,
    no_tls: bool,
    path: Path | None,
    log_level: str | None,
    supervised: bool,
    verbose: bool,
) -> None:
    """Serve the models of models.toml, and those that were pulled, until Ctrl-C.

    With FILEs, GGUF files or folders of models, serves these alone under their files' names, or in
    addition to the models of --config.
    """
    outlet.install()
    hold_hangups()
    level = "debug" if verbose else log_level
    flags = {"host": host, "port": port, "log_level": level}
    given: dict[str, object] = {name: flag for name, flag in flags.items() if flag is not None}
    given |= tls_options(tls_cert, tls_key, no_tls)
    keys = key_file.default_path()
    origin, holders = Origin(path, models, given, check_files, keys), Holders(keys)
    settings, catalog = origin.read()
    holders.read()
    logs.configure(settings.log_level, settings.log_format)

    handed = supervisor.handed_over()
    if handed:
        follow_parent()
        faulthandler.enable(handed.report)
        sockets = handed.sockets
    else:
        sockets = take_address(settings.host, settings.port) + take_ollama_port(settings)
    if supervised and not handed:
        become_supervisor(sockets, settings)

    bring_libraries(catalog)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            started, status = runner.run(run(settings, catalog, origin, holders, handed, sockets))
    except SystemExit:  # how uvicorn reports that the application did not start; it logged why
        started, status = False, 1
    leave(status)
    if not started:
        raise ConfigError("the server could not start; the lines above say why")
    sys.exit(status)


async def run(
    settings: ServerSettings,
    catalog: Catalog,
    origin: Origin,
    holders: Holders,
    handed: supervisor.HandedOver | None,
    sockets: list[socket.socket],
) -> tuple[bool, int]:
    """Returns whether the server had started, and the exit status."""
    runtime = Runtime(settings, catalog, origin)
    if handed:
        runtime.safeguard.note_in(handed.journal)
    runtime.start()  # models with `preload` load while the rest is imported
    serving = await in_daemon_thread(lambda: imported(catalog), name="imports")
    ledger = Ledger(default_path() if settings.keep_costs else None)
    server = serving(runtime, ledger, handed, holders)
    await server.serve(sockets)
    end_within(server.status)
    return server.started, server.status


def tls_options(cert: str | None, key: str | None, is_off: bool) -> dict[str, object]:
    """Keys of `[server]`. A certificate comes with its own key, so the settings' does not count.
    Raises ConfigError."""
    if is_off:
        if cert or key:
            raise ConfigError("--no-tls: it contradicts --tls-cert and --tls-key")
        return {"tls_cert": None, "tls_key": None}
    if cert is None:
        if key is not None:
            raise ConfigError("--tls-key: give its certificate too, with --tls-cert")
        return {}
    return {"tls_cert": os.path.abspath(cert), "tls_key": key and os.path.abspath(key)}


def hold_hangups() -> None:
    """Lets a request to reload wait for its handler: during the start, it would end the process."""
    if hasattr(signal, "SIGHUP"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])


def bring_libraries(catalog: Catalog) -> None:
    """Imports what begins to load text models, if one is loaded at the start: so llama.cpp begins
    before the rest is imported, and needs no interpreter while that goes on."""
    if preloads_text(catalog):
        # If they can't be imported, the load fails too, and says why.
        with contextlib.suppress(ApiError, ImportError), garbage.paused():
            import localinfra.text.loading  # noqa: F401


def preloads_text(catalog: Catalog) -> bool:
    return any(isinstance(e, TextModelEntry) and e.preload for e in catalog.entries.values())


def imported(catalog: Catalog) -> "type[Foreground]":
    """Imports what the load needs next, and the API: together as long as loading a small model."""
    # The load would begin and go on in the imports' pauses only without eager switches.
    with eager_switches(), garbage.paused():
        if preloads_text(catalog):
            with contextlib.suppress(ApiError, ImportError):
                import localinfra.llama.context
                import localinfra.text.model  # noqa: F401
        from localinfra.cli.foreground import Foreground

    return Foreground


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's if it is installed; None: Python's own."""
    try:
        import uvloop
    except ImportError:  # Windows
        return None
    return uvloop.new_event_loop


def become_supervisor(sockets: list[socket.socket], settings: ServerSettings) -> NoReturn:
    if os.name != "posix":
        raise ConfigError("--supervised: this system can't hand sockets to another process")
    supervisor.become(sockets, deaths().folder, settings.log_level, settings.log_format)


def take_address(host: str, port: int) -> list[socket.socket]:
    """Listens on the address: who asks before the server is there waits. Raises ConfigError."""
    try:
        return listening(host, port)
    except OSError as error:
        raise cannot_listen(host, port, error) from None


def listening(host: str, port: int) -> list[socket.socket]:
    """Two processes may bind one port, but only one can listen: the other ends before it loads
    any model. Raises OSError."""
    sockets = bind(host, port)
    try:
        for listener in sockets:
            listener.listen(supervisor.BACKLOG)
    except OSError:
        for listener in sockets:
            listener.close()
        raise
    return sockets


def take_ollama_port(settings: ServerSettings) -> list[socket.socket]:
    """Listens on the settings' `ollama_port`. If that fails, the server goes on without it."""
    host, port = settings.host, settings.ollama_port
    if port is None or port == settings.port:
        return []
    try:
        return listening(host, port)
    except OSError as error:
        why = cannot_listen(host, port, error, option="ollama_port")
        logger.warning("Ollama's clients have no port of their own: %s", why)
        return []


def cannot_listen(host: str, port: int, error: OSError, option: str = "--port") -> ConfigError:
    where = f"can't listen on {host}:{port}"
    if isinstance(error, socket.gaierror):
        return ConfigError(f"{where}: the host name has no address. Choose another --host.")
    if error.errno == errno.EADDRINUSE:
        holder = listener_on(port)
        who = f"{holder} listens there" if holder else "another server listens there"
        return ConfigError(f"{where}: {who}. End it, or choose another {option}.")
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(f"{where}: this machine has no such address. Choose another --host.")
    if error.errno == errno.EACCES:
        return ConfigError(
            f"{where}: permission denied. Choose a {option} above 1023."
            if port < 1024
            else f"{where}: permission denied."
        )
    return ConfigError(f"{where}: {error.strerror or error}")
