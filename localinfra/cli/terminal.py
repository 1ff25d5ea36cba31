"""What a person types or pastes into a terminal, one message at a time, and what was typed before.

Knows nothing of models. Where a line editor knows the marks that terminals put around a paste
(GNU readline), they are asked for; elsewhere (libedit, a dumb terminal) lines that come in one
burst are a paste.
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
except ImportError:  # Windows: its console keeps type-ahead to itself
    termios = None  # type: ignore[assignment]

BURST_GAP_S = 0.03  # between the lines of a paste; the fastest typist takes longer for a key
MAX_REMEMBERED = 1000  # messages


class Prompt:
    """Reads messages, with line editing and a history where Python has readline."""

    def __init__(self, history: Path) -> None:
        self._history = history
        self._readline = line_editor()
        if self._readline:
            self._readline.set_auto_history(False)  # it would take each line of a paste alone
            for message in recall(history):
                self._readline.add_history(message)

    def read(self) -> str:
        """Returns one message: a line, a paste, or lines of which all but the last end in \\.

        Raises EOFError for Ctrl-D and KeyboardInterrupt for Ctrl-C.
        """
        was_typed_ahead = is_waiting()  # while an answer came: lines of their own
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
        readline.parse_and_bind("set enable-bracketed-paste on")  # Python has it off
        if os.environ.get("NO_COLOR"):
            readline.parse_and_bind("set enable-active-region off")  # shows pastes in reverse
    return readline


def plain(text: str) -> str:
    """As typed: terminals end the lines of a paste with carriage returns."""
    return text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")


def is_typed() -> bool:
    """Whether standard input is a terminal. A parent may have closed it."""
    return sys.stdin is not None and sys.stdin.isatty()


def is_waiting(within_s: float = 0) -> bool:
    """Whether something was typed that nobody has read yet, be it an unfinished line."""
    if termios is None or not is_typed():
        return False
    with changed(termios.ICANON | termios.ECHO):  # the kernel hides a line while it edits it
        return bool(select.select([sys.stdin], [], [], within_s)[0])


@contextmanager
def silent() -> Iterator[None]:
    """What is typed meanwhile is not shown amid the output; the next prompt has it."""
    if termios is None or not is_typed():
        yield
        return
    with changed(termios.ECHO):
        yield


@contextmanager
def changed(without: int) -> Iterator[None]:
    """Takes local modes from the terminal for a while. Never flushes what was typed."""
    before = termios.tcgetattr(sys.stdin)
    modes = before.copy()
    modes[3] &= ~without
    termios.tcsetattr(sys.stdin, termios.TCSANOW, modes)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


# --- The history: a message a line; where it has several, all but the last end in \ -------------


def recall(path: Path) -> list[str]:
    """The last messages; none where there is no file to read."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    messages = text.replace("\\\n", "\0").splitlines()
    return [message.replace("\0", "\n") for message in messages[-MAX_REMEMBERED:]]


def remember(path: Path, message: str) -> None:
    """Adds a message for later chats; without a home to write to, they do without."""
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
