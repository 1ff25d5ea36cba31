"""How far a long piece of work is, on standard error."""

import sys

import click


class ProgressLine:
    """On a terminal one line that is rewritten; elsewhere a line whenever something new begins."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._last = ""

    def show(self, fraction: float, text: str) -> None:
        if self._is_terminal:
            line = f"  {fraction:4.0%}  {text}"
            click.echo(f"\r{line.ljust(len(self._last))}", nl=False, err=True)
            self._last = line
        elif text != self._last:
            click.echo(f"  {fraction:4.0%}  {text}", err=True)
            self._last = text

    def end(self) -> None:
        """Leaves an empty line for what comes next."""
        if self._is_terminal and self._last:
            click.echo(f"\r{' ' * len(self._last)}\r", nl=False, err=True)
        self._last = ""
