"""`localinfra serve`: runs the server in the foreground, from its banner to a clean end."""

import asyncio
import contextlib
import errno
import faulthandler
import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

import click
import uvicorn

from localinfra import logs
from localinfra.api.app import create_app
from localinfra.api.sockets.server import Server, bind
from localinfra.cli.client import local_url
from localinfra.cli.ending import end_within, leave
from localinfra.cli.file_checks import check_files
from localinfra.cli.ports import listener_on
from localinfra.config.settings import LOG_LEVELS, ServerSettings
from localinfra.costs import Ledger, default_path
from localinfra.errors import ConfigError
from localinfra.models.entries import KINDS, ModelEntry, TextModelEntry
from localinfra.models.sources import state as file_state
from localinfra.origin import Origin
from localinfra.runtime import Runtime

logger = logging.getLogger(__name__)

CANCEL_S = 25.0  # after the deadline for answers, to end threads and free models


class Foreground(Server):
    """The first SIGINT or SIGTERM lets running answers finish within the deadline, with exit code
    0. A second one ends the process at once, and so does failing to end within `CANCEL_S` after
    the deadline."""

    def __init__(self, runtime: Runtime, ledger: Ledger):
        super().__init__(create_app(runtime, ledger), runtime.settings)
        self._runtime = runtime
        self._reloads: set[asyncio.Task[None]] = set()
        self._ends_with_terminal = False
        runtime.follow(self.apply)

    def apply(self, settings: ServerSettings) -> None:
        super().apply(settings)
        logs.configure(settings.log_level, settings.log_format)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            addresses = [server.sockets[0].getsockname()[:2] for server in self.servers]
            (host, port), *others = addresses
            for_ollama = next((local_url(host, at) for _, at in others if at != port), None)
            self._tell(banner(local_url(host, port), self._runtime, for_ollama))

    def _tell(self, text: str) -> None:
        """For who has started it. Containers and services join the output with the log: where
        programs read that, only the first line is told, as a record of it."""
        if self._runtime.settings.log_format == "json":
            logger.info("%s", text.partition("\n")[0])
        else:
            click.echo(text)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends answers that outlast the deadline with an error that their clients can read."""
        timer = asyncio.create_task(self._close_at_deadline())
        await super().shutdown(sockets)
        timer.cancel()

    async def _close_at_deadline(self) -> None:
        await asyncio.sleep(self._runtime.settings.shutdown_timeout_s)
        await self._runtime.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uses Python's own handlers, which also run in the middle of a long callback."""
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        if hasattr(signal, "SIGHUP"):  # not on Windows
            has_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            self._ends_with_terminal = has_terminal() and not has_nohup
            signal.signal(signal.SIGHUP, self._on_hangup)
        yield

    def _on_hangup(self, number: int, frame: FrameType | None) -> None:
        if self._ends_with_terminal and not has_terminal():  # its window was closed
            if not self.should_exit:  # a shell sends it too
                self._on_signal(number, frame)
        else:
            self._loop.call_soon_threadsafe(self._start_reload)

    def _start_reload(self) -> None:
        task = asyncio.create_task(self._reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        try:
            changes = await self._runtime.reload()
        except ConfigError as error:
            logger.error("the settings stay as they were: %s", error)
        else:
            logger.info("reloaded: %s", changes)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(130)
        self.should_exit = True
        # Needs neither the loop nor the GIL, so that nothing can keep the process alive.
        faulthandler.dump_traceback_later(
            self._runtime.settings.shutdown_timeout_s + CANCEL_S, exit=True, file=2
        )
        self._loop.call_soon_threadsafe(self._announce_deadline)

    def _announce_deadline(self) -> None:
        if running := len(self.server_state.tasks):
            deadline_s = self._runtime.settings.shutdown_timeout_s
            self._tell(
                f"Finishing {running} running answers within {deadline_s:g} s. "
                "Press Ctrl-C again to stop at once."
            )


def has_terminal() -> bool:
    """Whether the process belongs to a terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def banner(base: str, runtime: Runtime, for_ollama: str | None = None) -> str:
    """The URLs, the models, and a curl line that works. `for_ollama`: another URL."""
    entries = runtime.catalog.entries
    ready = {name: e for name, e in entries.items() if file_state(e.source) == "present"}
    also = [f"and Ollama's clients at {for_ollama}"] if for_ollama else []
    lines = [f"localinfra answers at {base}/v1", *also, f"Its page, for a browser: {base}", ""]
    for kind in KINDS.values():
        mark = "" if kind is TextModelEntry else f" ({kind.kind})"
        lines += [f"  {name}{mark}" for name, entry in ready.items() if type(entry) is kind]
    if not entries:
        lines.append("  no model yet: the settings file has none")
    if absent := len(entries) - len(ready):
        count = f"and {absent} more" if ready else f"none yet: {absent} models"
        lines.append(f"  {count} whose files are missing: localinfra list")
    if ready:
        lines += ["", "Try it:", *example(base, ready, has_keys=bool(runtime.settings.api_keys))]
    return "\n".join([*lines, "", "Press Ctrl-C to stop."])


def example(base: str, ready: Mapping[str, ModelEntry], *, has_keys: bool) -> list[str]:
    kinds = list(KINDS)
    name, entry = min(ready.items(), key=lambda item: kinds.index(item[1].kind))
    key = ' \\\n    -H "Authorization: Bearer $LOCALINFRA_API_KEY"' if has_keys else ""
    return [
        f"  curl {base}{entry.routes[0]} -H 'Content-Type: application/json'{key} \\",
        f'    -d \'{{"model": "{name}", {entry.example}}}\'',
    ]


@click.command()
@click.argument("models", nargs=-1, metavar="[FILE]...")
@click.option(
    "--host", help="Address to listen on. Default: the settings' host, else this machine only."
)
@click.option("--port", type=click.IntRange(0, 65535), help="0 takes any free port. Default: 8000.")
@click.option(
    "--config", "path", type=click.Path(path_type=Path), help="Settings instead of models.toml."
)
@click.option(
    "--log-level", type=click.Choice(LOG_LEVELS), help="Default: the settings' level, else info."
)
@click.option(
    "--verbose", "-v", is_flag=True, help="Log every request and llama.cpp's messages: level debug."
)
def serve(
    models: Sequence[str],
    host: str | None,
    port: int | None,
    path: Path | None,
    log_level: str | None,
    verbose: bool,
) -> None:
    """Serve the models of models.toml, and those that were pulled, until Ctrl-C.

    With FILEs, GGUF files or folders of models, serves these alone under their files' names, or in
    addition to the models of --config.
    """
    flags = {"host": host, "port": port, "log_level": "debug" if verbose else log_level}
    given = {name: value for name, value in flags.items() if value is not None}
    origin = Origin(path, models, given, check_files)
    settings, catalog = origin.read()
    logs.configure(settings.log_level, settings.log_format)

    sockets = take_address(settings.host, settings.port) + take_ollama_port(settings)

    async def run() -> bool:
        ledger = Ledger(default_path() if settings.keep_costs else None)
        server = Foreground(Runtime(settings, catalog, origin), ledger)
        await server.serve(sockets)
        end_within(0 if server.started else 1)
        return server.started

    # uvloop if installed. By default, it would also give its loggers handlers of their own.
    loop_factory = uvicorn.Config("", log_config=None).get_loop_factory()
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            started = runner.run(run())
    except OSError as error:  # two processes may bind one port, but only one can listen
        raise cannot_listen(settings.host, settings.port, error) from None
    except SystemExit:  # how uvicorn reports that the application did not start; it logged why
        started = False
    leave(0 if started else 1)
    if not started:
        raise ConfigError("the server could not start; the lines above say why")


def take_address(host: str, port: int) -> list[socket.socket]:
    """Binds the address. Raises ConfigError if that fails."""
    try:
        return bind(host, port)
    except OSError as error:
        raise cannot_listen(host, port, error) from None


def take_ollama_port(settings: ServerSettings) -> list[socket.socket]:
    """Listens on the settings' `ollama_port`. If that fails, the server goes on without it."""
    host, port = settings.host, settings.ollama_port
    if port is None or port == settings.port:
        return []
    sockets: list[socket.socket] = []
    try:
        sockets = bind(host, port)
        for listener in sockets:
            listener.listen()  # two processes may bind one port, but only one can listen
    except OSError as error:
        for listener in sockets:
            listener.close()
        why = cannot_listen(host, port, error, option="ollama_port")
        logger.warning("Ollama's clients have no port of their own: %s", why)
        return []
    return sockets


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
