"""The server as a command runs it: signals, reloading, and what the terminal shows."""

import asyncio
import contextlib
import faulthandler
import logging
import os
import shlex
import signal
import socket
from collections.abc import Iterator, Mapping
from types import FrameType

import click

from localinfra import logs, outlet, supervisor
from localinfra.api.app import create_app
from localinfra.api.sockets.server import Server
from localinfra.config.settings import ServerSettings, local_url
from localinfra.costs import Ledger
from localinfra.errors import ConfigError
from localinfra.keys.holders import Holders
from localinfra.models.entries import KINDS, ModelEntry, TextModelEntry
from localinfra.models.sources import state as file_state
from localinfra.runtime import Runtime
from localinfra.supervisor import HandedOver

logger = logging.getLogger(__name__)

CANCEL_S = 25.0  # after the deadline for answers, to end threads and free models


class Foreground(Server):
    """The first SIGINT or SIGTERM lets running answers finish within the deadline, with exit code
    0. A second one ends the process at once, and so does failing to end within `CANCEL_S` after
    the deadline."""

    def __init__(
        self,
        runtime: Runtime,
        ledger: Ledger,
        handed: HandedOver | None = None,
        holders: Holders | None = None,
    ):
        self._holders = holders or Holders()
        super().__init__(create_app(runtime, ledger, self._holders), runtime.settings)
        self._runtime = runtime
        self._handed = handed
        self._is_broken = False
        if handed:
            self.wills = handed.wills
            runtime.safeguard.supervise(self.restart)
        self._reloads: set[asyncio.Task[None]] = set()
        self._ends_with_terminal = False
        runtime.follow(self.apply)

    def apply(self, settings: ServerSettings) -> None:
        super().apply(settings)
        logs.configure(settings.log_level, settings.log_format)

    @property
    def status(self) -> int:
        """The exit status."""
        if self._is_broken:
            return supervisor.RESTART
        return 0 if self.started else 1

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._handed:
            self._handed.journal.set_ready()
        if self.started:
            addresses = [server.sockets[0].getsockname()[:2] for server in self.servers]
            (host, port), *others = addresses
            settings = self._runtime.settings
            urls = (local_url(settings, host, at) for _, at in others if at != port)
            url, for_ollama = local_url(settings, host, port), next(urls, None)
            self._tell(banner(url, self._runtime, for_ollama, has_keys=not self._holders.is_open))

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
            signal.pthread_sigmask(signal.SIG_UNBLOCK, supervisor.PASSED_ON)
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
            if self._handed:  # a supervisor kills at a second one; both may get each
                return
            os._exit(supervisor.AT_ONCE)
        self._end()
        self._loop.call_soon_threadsafe(self._announce_deadline)

    def restart(self, reason: str) -> None:
        """Ends the process as a signal does, for the supervisor to start another. Any thread."""
        if not self.should_exit:
            logger.error("the server restarts: %s", reason)
            self._is_broken = True
            self._loop.call_soon_threadsafe(self._stop_listening)
            self._end()

    def _stop_listening(self) -> None:
        """New clients wait for the next process."""
        for server in self.servers:
            server.close()

    def _end(self) -> None:
        self.should_exit = True
        # Needs neither the loop nor the GIL, so that nothing can keep the process alive.
        faulthandler.dump_traceback_later(
            self._runtime.settings.shutdown_timeout_s + CANCEL_S,
            exit=True,
            file=outlet.for_last_words(),
        )

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


def banner(
    base: str, runtime: Runtime, for_ollama: str | None = None, *, has_keys: bool = False
) -> str:
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
        tls_cert = runtime.settings.tls_cert
        lines += ["", "Try it:", *example(base, ready, tls_cert, has_keys=has_keys)]
    return "\n".join([*lines, "", "Press Ctrl-C to stop."])


def example(
    base: str, ready: Mapping[str, ModelEntry], tls_cert: str | None, *, has_keys: bool
) -> list[str]:
    kinds = list(KINDS)
    name, entry = min(ready.items(), key=lambda item: kinds.index(item[1].kind))
    key = ' \\\n    -H "Authorization: Bearer $LOCALINFRA_API_KEY"' if has_keys else ""
    # curl then trusts it, whoever has signed it.
    trust = f"--cacert {shlex.quote(tls_cert)} " if tls_cert else ""
    return [
        f"  curl {trust}{base}{entry.routes[0]} -H 'Content-Type: application/json'{key} \\",
        f'    -d \'{{"model": "{name}", {entry.example}}}\'',
    ]
