"""Progress of long work, on standard error."""

import os
import shutil
import sys
import threading
import time
from typing import Self

import click


class WaitingLine:
    """Shows on a terminal what is waited for, from the first second until `end`."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._line = ProgressLine()
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)
        if self._line.is_terminal:
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.end()

    def _show(self) -> None:
        started = time.monotonic()
        while not self._has_ended.wait(1.0):
            self._line.wait(f"waiting for {self._what}: {time.monotonic() - started:.0f} s")

    def end(self) -> None:
        """Once is enough; more do no harm."""
        self._has_ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self._line.end()


class ProgressLine:
    """One line, rewritten, on a terminal; elsewhere a new line whenever the text changes."""

    def __init__(self) -> None:
        self.is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._last = ""

    def show(self, fraction: float, text: str) -> None:
        if self.is_terminal:
            self.wait(f"  {fraction:4.0%}  {text}")
        elif text != self._last:
            click.echo(f"  {fraction:4.0%}  {text}", err=True)
            self._last = text

    def wait(self, line: str) -> None:
        """Shows what is waited for, on a terminal only: elsewhere its clock would fill a log."""
        if self.is_terminal:
            line = line[
                : shutil.get_terminal_size().columns - 1
            ]  # a wrapped line can't be rewritten
            click.echo(f"\r{line.ljust(len(self._last))}", nl=False, err=True)
            self._last = line

    def end(self) -> None:
        """Clears the line for what is printed next."""
        if self.is_terminal and self._last:
            click.echo(f"\r{' ' * len(self._last)}\r", nl=False, err=True)
        self._last = ""
