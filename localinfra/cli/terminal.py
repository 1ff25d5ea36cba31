"""Reads typed or pasted messages from a terminal, and keeps their history.

Knows nothing of models. GNU readline detects pastes by bracketed paste mode; elsewhere (libedit, a
dumb terminal) lines that arrive in one burst count as a paste.
"""

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

try:
    import termios
except ImportError:  # Windows: its console doesn't show type-ahead to programs
    termios = None  # type: ignore[assignment]

BURST_GAP_S = 0.03  # at most between the lines of a paste; a fast typist needs longer for a key
MAX_REMEMBERED = 1000  # messages


class Prompt:
    """Reads messages, with line editing and a history where Python has readline."""

    def __init__(self, history: Path) -> None:
        self._history = history
        self._readline = line_editor()
        if self._readline:
            self._readline.set_auto_history(False)  # it would add a paste line by line
            for message in recall(history):
                self._readline.add_history(message)

    def read(self) -> str:
        """Returns one message: a line, a paste, or several lines, all but the last ending in \\.

        Raises EOFError for Ctrl-D and KeyboardInterrupt for Ctrl-C.
        """
        was_typed_ahead = is_waiting()  # typed during the last answer: separate messages
        text = plain(input("> "))
        while True:
            if text.endswith("\\"):
                text = f"{text[:-1]}\n{plain(input('… '))}"
            elif not was_typed_ahead and not text.startswith("/") and is_waiting(BURST_GAP_S):
                text = f"{text}\n{plain(input())}"
            else:
                break
        if text.strip():
            self._remember(text)
        return text

    def _remember(self, message: str) -> None:
        if self._readline:
            self._readline.add_history(message)
            remember(self._history, message)


def line_editor() -> ModuleType | None:
    try:
        import readline
    except ImportError:
        return None
    if os.environ.get("TERM", "dumb") != "dumb" and "libedit" not in (readline.__doc__ or ""):
        readline.parse_and_bind("set enable-bracketed-paste on")  # Python turns it off
        if os.environ.get("NO_COLOR"):
            readline.parse_and_bind("set enable-active-region off")  # it highlights pastes
    return readline


def plain(text: str) -> str:
    """Normalizes line ends: terminals send pastes with carriage returns."""
    return text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")


def is_typed() -> bool:
    """Whether standard input is a terminal. A parent may have closed it."""
    return sys.stdin is not None and sys.stdin.isatty()


def is_waiting(within_s: float = 0) -> bool:
    """Whether typed input is unread, even an unfinished line."""
    if termios is None or not is_typed():
        return False
    with changed(termios.ICANON | termios.ECHO):  # in canonical mode an unfinished line is hidden
        return bool(select.select([sys.stdin], [], [], within_s)[0])


@contextmanager
def silent() -> Iterator[None]:
    """Hides what is typed during output; the next prompt shows it."""
    if termios is None or not is_typed():
        yield
        return
    with changed(termios.ECHO):
        yield


@contextmanager
def keys_at_once() -> Iterator[bool]:
    """Within, each key can be read when it is typed, and none is shown. Yields whether it can."""
    if termios is None:
        yield False
        return
    with changed(termios.ICANON | termios.ECHO):
        yield True


@contextmanager
def changed(without: int) -> Iterator[None]:
    """Clears terminal modes (c_lflag bits) for the block. Never flushes typed input."""
    before = termios.tcgetattr(sys.stdin)
    modes = before.copy()
    modes[3] &= ~without
    termios.tcsetattr(sys.stdin, termios.TCSANOW, modes)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


# --- The history: one message per line; a line break in a message is written as \ and newline ---


def recall(path: Path) -> list[str]:
    """The last messages; none if the file can't be read."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    messages = text.replace("\\\n", "\0").splitlines()
    return [message.replace("\0", "\n") for message in messages[-MAX_REMEMBERED:]]


def remember(path: Path, message: str) -> None:
    """Saves a message for later chats; does nothing if the file can't be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        messages = recall(path)
        mode = "w" if len(messages) >= MAX_REMEMBERED else "a"
        kept = [*messages[1:], message] if mode == "w" else [message]
        with open(path, mode, encoding="utf-8", opener=private, errors="replace") as file:
            file.writelines(one.replace("\n", "\\\n") + "\n" for one in kept)
    except OSError:
        pass


def private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
