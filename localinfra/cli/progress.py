"""How far a long piece of work is, on standard error."""

import os
import sys

import click


class ProgressLine:
    """On a terminal one line that is rewritten; elsewhere a line whenever something new begins."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._last = ""

    def show(self, fraction: float, text: str) -> None:
        if self._is_terminal:
            self.wait(f"  {fraction:4.0%}  {text}")
        elif text != self._last:
            click.echo(f"  {fraction:4.0%}  {text}", err=True)
            self._last = text

    def wait(self, line: str) -> None:
        """What is waited for. On a terminal only: elsewhere its clock would fill a log."""
        if self._is_terminal:
            click.echo(f"\r{line.ljust(len(self._last))}", nl=False, err=True)
            self._last = line

    def end(self) -> None:
        """Leaves an empty line for what comes next."""
        if self._is_terminal and self._last:
            click.echo(f"\r{' ' * len(self._last)}\r", nl=False, err=True)
        self._last = ""
