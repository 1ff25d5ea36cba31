"""Views that replace each other on a terminal, or follow each other elsewhere."""

import math
import os
import select
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

import click

from localinfra.cli.terminal import is_typed, keys_at_once

# https://invisible-island.net/xterm/ctlseqs/ctlseqs.html
ENTER = "\x1b[?1049h\x1b[?25l"  # the alternate screen, without a cursor
LEAVE = "\x1b[?25h\x1b[?1049l"
HOME, END_OF_LINE, END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


def is_screen() -> bool:
    """Whether standard output is a terminal that can rewrite its lines."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return is_terminal and os.environ.get("TERM") != "dumb"


class Screen:
    """A whole terminal, which has its earlier content again in the end."""

    def __init__(self) -> None:
        self._modes = ExitStack()
        self._has_keys = is_typed()

    def __enter__(self) -> Self:
        if self._has_keys:
            self._has_keys = self._modes.enter_context(keys_at_once())
        click.echo(ENTER, nl=False)
        return self

    def __exit__(self, *failure: object) -> None:
        click.echo(LEAVE, nl=False)
        self._modes.close()

    @property
    def columns(self) -> float:
        return shutil.get_terminal_size().columns - 1  # the last one may start a new line

    def show(self, lines: Sequence[str]) -> None:
        """As much of them as there is room for."""
        columns, rows = int(self.columns), shutil.get_terminal_size().lines
        if len(lines) > rows:
            lines = [*lines[: rows - 1], f"... {len(lines) - rows + 1} more"]
        text = "\n".join(line[:columns] + END_OF_LINE for line in lines)
        click.echo(HOME + text + END_OF_SCREEN, nl=False)

    def wait(self, seconds: float) -> bool:
        """Returns early, and whether q was pressed."""
        ends_at = time.monotonic() + seconds
        while self._has_keys and (left := ends_at - time.monotonic()) > 0:
            if select.select([sys.stdin], [], [], left)[0]:
                key = os.read(sys.stdin.fileno(), 1)
                if key in (b"q", b"Q"):
                    return True
                self._has_keys = bool(key)  # else the terminal has gone
        time.sleep(max(0.0, ends_at - time.monotonic()))
        return False


class Paper:
    """Plain text, one view below the other."""

    columns = math.inf

    def __init__(self) -> None:
        self._is_first = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None: ...

    def show(self, lines: Sequence[str]) -> None:
        if not self._is_first:
            click.echo()
        self._is_first = False
        click.echo("\n".join(lines))

    def wait(self, seconds: float) -> bool:
        time.sleep(seconds)
        return False
