"""`localinfra serve`: uvicorn with the settings; says where it answers, and ends when asked to."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import uvicorn

from localinfra import config as config_file
from localinfra.api.app import create_app
from localinfra.cli import first_start
from localinfra.cli.client import local_url
from localinfra.costs import Ledger, default_path
from localinfra.errors import ConfigError
from localinfra.models import catalog as catalog_file
from localinfra.models.catalog import TextModelEntry
from localinfra.models.sources import state as file_state
from localinfra.runtime import Runtime


class Server(uvicorn.Server):
    """A first SIGINT or SIGTERM lets running answers end within the deadline, and then the exit
    code is 0; a second one ends the process at once."""

    def __init__(self, config: uvicorn.Config, runtime: Runtime):
        super().__init__(config)
        self._runtime = runtime

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            click.echo(banner(local_url(host, port), self._runtime))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answers that outlast the deadline end with an error their clients can read."""
        timer = asyncio.create_task(self._close_at_deadline())
        await super().shutdown(sockets)
        timer.cancel()

    async def _close_at_deadline(self) -> None:
        await asyncio.sleep(self._runtime.settings.shutdown_timeout_s)
        await self._runtime.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        yield

    def _on_signal(self) -> None:
        if self.should_exit:
            os._exit(130)
        self.should_exit = True
        if running := len(self.server_state.tasks):
            deadline_s = self._runtime.settings.shutdown_timeout_s
            click.echo(
                f"Finishing {running} running answers, for {deadline_s:g} s at most. "
                "Press Ctrl-C again to stop at once."
            )


def banner(base: str, runtime: Runtime) -> str:
    """The URL, the models, and a curl line that works."""
    entries = runtime.catalog.entries
    text = {name: e for name, e in entries.items() if isinstance(e, TextModelEntry)}
    ready = [name for name, entry in text.items() if file_state(entry.source) == "present"]
    lines = [f"localinfra answers at {base}/v1", "", *(f"  {name}" for name in ready)]
    if not entries:
        lines.append("  no model yet: the settings file names none")
    if absent := len(text) - len(ready):
        count = f"and {absent} more" if ready else f"none yet: {absent} chat models"
        lines.append(f"  {count} whose files are not here: localinfra list")
    if ready:
        key = (
            ' \\\n    -H "Authorization: Bearer $LOCALINFRA_API_KEY"'
            if runtime.settings.api_keys
            else ""
        )
        lines += [
            "",
            "Try it:",
            f"  curl {base}/v1/chat/completions -H 'Content-Type: application/json'{key} \\",
            f'    -d \'{{"model": "{ready[0]}", '
            '"messages": [{"role": "user", "content": "Hello!"}]}\'',
        ]
    return "\n".join([*lines, "", "Press Ctrl-C to stop."])


@click.command()
@click.option("--host", help="Address to listen on. Default: that of the settings, 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), help="0 takes any free port. Default: 8000.")
@click.option(
    "--config", "path", type=click.Path(path_type=Path), help="Settings instead of models.toml."
)
@click.option("--verbose", "-v", is_flag=True, help="Log what the server and llama.cpp do.")
def serve(host: str | None, port: int | None, path: Path | None, verbose: bool) -> None:
    """Serve the models of models.toml until Ctrl-C."""
    config = config_file.load(path)
    catalog = catalog_file.load(config)
    first_start.check_files(catalog, config.path)
    flags = {"host": host, "port": port}
    given = {name: value for name, value in flags.items() if value is not None}
    settings = msgspec.structs.replace(config.server, **given)
    settings.check_exposure()
    logging.basicConfig(
        level="DEBUG" if verbose else settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )

    if undecided := first_start.undecided(catalog):
        check_address(settings.host, settings.port)
        for name, entry in undecided.items():
            first_start.fit_weights(name, entry)

    async def run() -> bool:
        runtime = Runtime(settings, catalog)
        ledger = Ledger(default_path() if settings.keep_costs else None)
        server = Server(
            uvicorn.Config(
                create_app(runtime, ledger),
                host=settings.host,
                port=settings.port,
                log_config=None,
                log_level="debug" if verbose else "warning",
                access_log=False,
                server_header=False,
                ws="none",
                # The runtime ends answers before that; this is for clients that do not read them.
                timeout_graceful_shutdown=round(settings.shutdown_timeout_s) + 5,
                lifespan="on",
            ),
            runtime,
        )
        await server.serve()
        return server.started

    loop_factory = uvicorn.Config("").get_loop_factory()  # uvloop where there is one
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            started = runner.run(run())
    except SystemExit:  # uvicorn's way of saying that it could not listen; it logged why
        started = False
    if not started:
        raise cannot_listen(settings.host, settings.port)


def check_address(host: str, port: int) -> None:
    """Raises ConfigError for an address in use, before a long piece of work is begun; what else
    may be wrong with it uvicorn will say."""
    with contextlib.suppress(OSError):
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as probe:
                if os.name == "posix":  # as asyncio does: a port just left may be taken
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                try:
                    probe.bind(address)
                except OSError as error:
                    if error.errno == errno.EADDRINUSE:
                        raise cannot_listen(host, port) from None


def cannot_listen(host: str, port: int) -> ConfigError:
    return ConfigError(
        f"can't listen on {host}:{port}; is another server running there? "
        "Choose another with --port."
    )
