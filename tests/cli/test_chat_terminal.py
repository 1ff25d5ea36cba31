"""`localinfra chat` in a terminal: prompts, pastes, commands, and leaving."""

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from children import Terminal
from cli.conftest import event

from localinfra.cli.terminal import MAX_REMEMBERED, recall, remember


class Chat(Terminal):
    def __init__(self, *arguments: str, **environment: str) -> None:
        super().__init__("chat", *arguments, **environment)


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}


@pytest.fixture
def chat(stub: Any, home: dict[str, str]) -> Iterator[Chat]:
    with Chat("--url", stub.url, **home) as chat:
        chat.until("> ")
        yield chat


def asked(stub: Any) -> list[str]:
    return [body["messages"][-1]["content"] for body in stub.bodies]


def test_a_terminal_shows_counts_and_takes_commands(stub: Any, chat: Chat) -> None:
    chat.type("one \\\ntwo\n")
    chat.until(r"<one \r?\ntwo>")
    chat.until(r"3 tokens .* 7 read \(5 cached\)")
    chat.type("/retry\n")
    chat.until(r"<one \r?\ntwo>")
    assert stub.bodies[0] == stub.bodies[1]
    chat.type("/model\n")
    listed = chat.until(r"\* one\r?\n  two\r?\n  far \(fetch needed\)")
    assert "vectors" not in listed
    chat.type("/model tow\n")
    chat.until(r"Did you mean two\?")
    chat.type("/model two\n/system be kind\n/clear\n/nonsense\nx\n")
    chat.until("not a command")
    chat.until("<x>")
    assert stub.bodies[-1]["model"] == "two"
    assert stub.bodies[-1]["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "x"},
    ]
    chat.type("/quit\n")
    assert chat.exit_code() == 0


def test_a_wait_for_the_first_token_is_shown_until_it_comes(
    stub: Any, home: dict[str, str]
) -> None:
    was_shown = threading.Event()

    def late(body: Any) -> Iterator[bytes]:
        yield event({"role": "assistant", "content": ""})
        was_shown.wait()
        yield event({"content": "here"})
        yield event({}, "stop")
        yield b"data: [DONE]\n\n"

    stub.stream = late
    with Chat("one", "Hello", "--url", stub.url, TERM="xterm", **home) as chat:
        chat.until(r"waiting for one: \d+ s")
        was_shown.set()
        assert chat.rest().endswith("\rhere\r\n")
        assert chat.exit_code() == 0


PASTE = "/usr/bin/x: error\r\r\tindented\rlast"


def test_a_paste_is_one_message(stub: Any, home: dict[str, str]) -> None:
    with Chat("--url", stub.url, TERM="xterm", **home) as chat:
        chat.until(r"\x1b\[\?2004h")  # turns on bracketed paste
        chat.type(f"\x1b[200~{PASTE}\x1b[201~")
        chat.until("last")
        assert not stub.bodies  # a paste can be checked before it is sent
        chat.type("\r")
        chat.until("3 tokens")
        assert asked(stub) == ["/usr/bin/x: error\n\n\tindented\nlast"]
        chat.until("> ")
        chat.type("\x1b[A\r")  # up: the whole last message
        chat.until("3 tokens")
        assert asked(stub) == ["/usr/bin/x: error\n\n\tindented\nlast"] * 2


@pytest.mark.parametrize("text", ["one\n\n  two\nthree\n", "one\n\n  two\nthree"])
def test_a_burst_of_lines_is_a_paste_without_bracketed_paste(
    stub: Any, chat: Chat, text: str
) -> None:
    chat.type(text)
    if not text.endswith("\n"):
        chat.until("three")
        chat.type("\n")
    chat.until("3 tokens")
    assert asked(stub) == ["one\n\n  two\nthree"]


def test_what_is_typed_during_an_answer_is_shown_at_the_next_prompt(stub: Any, chat: Chat) -> None:
    begun, typed = threading.Event(), threading.Event()

    def slow(body: Any) -> Iterator[bytes]:
        *parts, end, done = stub_echo(body)
        yield from parts[:-1]
        begun.set()
        typed.wait(60)
        yield from (parts[-1], end, done)

    stub_echo, stub.stream = stub.stream, slow
    chat.type("question\n")
    assert begun.wait(60)
    chat.type("next\nand the one after\n")
    time.sleep(0.3)  # it reaches the terminal in microseconds
    typed.set()
    shown = chat.until(r"3 tokens[^\n]*\n")
    assert "next" not in shown and "<question>" in shown
    chat.until("> next")
    chat.until("> and the one after")
    chat.until("3 tokens")
    assert asked(stub) == ["question", "next", "and the one after"]


def test_ctrl_c_stops_the_answer_and_then_the_chat(stub: Any, chat: Chat) -> None:
    def slow(body: object) -> Iterator[bytes]:
        while True:
            yield b'data: {"choices":[{"delta":{"content":"la "}}]}\n\n'
            time.sleep(0.01)

    stub.stream = slow
    chat.type("sing\n")
    chat.until("la la la")
    chat.type("\x03")
    chat.until("stopped")
    assert stub.gone.wait(10)
    chat.until("> ")
    chat.type("\x03")
    assert chat.exit_code() == 0


def test_ctrl_c_ends_a_single_answer_with_status_130(stub: Any, home: dict[str, str]) -> None:
    def slow(body: object) -> Iterator[bytes]:
        while True:
            yield b'data: {"choices":[{"delta":{"content":"la "}}]}\n\n'
            time.sleep(0.01)

    stub.stream = slow
    with Chat("one", "sing", "--url", stub.url, **home) as chat:
        chat.until("la la la")
        chat.type("\x03")
        assert chat.exit_code() == 130


def test_ctrl_d_leaves_and_the_messages_are_remembered(stub: Any, home: dict[str, str]) -> None:
    for _ in range(2):
        with Chat("--url", stub.url, **home) as chat:
            chat.until("> ")
            chat.type("remember \\\nme\n")
            chat.until("3 tokens")
            chat.until("> ")
            chat.type("\x04")
            assert chat.exit_code() == 0
    (history,) = Path(home["HOME"]).rglob("chat_history")
    assert recall(history) == ["remember \nme"] * 2
    assert history.stat().st_mode & 0o077 == 0


def test_the_history_keeps_the_last_messages_as_they_were(tmp_path: Path) -> None:
    messages = [f"{number}\nends in \\\n\n\tb" for number in range(MAX_REMEMBERED + 5)]
    for message in messages:
        remember(tmp_path / "history", message)
    assert recall(tmp_path / "history") == messages[5:]


@pytest.mark.parametrize(
    ("environment", "has_colour"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_colours_are_left_out_if_unwanted(
    stub: Any, home: dict[str, str], environment: dict[str, str], has_colour: bool
) -> None:
    with Chat("--url", stub.url, **home, **environment) as chat:
        shown = chat.until("> ")
        chat.type("/nonsense\r")
        shown += chat.until(r"not a command[^>]*> ")
        chat.type("\x04")
        shown += chat.rest()
    assert (re.search(r"\x1b\[\d+m", shown) is not None) is has_colour
    if environment["TERM"] == "dumb":
        assert "\x1b" not in shown


def test_an_unknown_model_is_refused_without_a_greeting(stub: Any, home: dict[str, str]) -> None:
    with Chat("tow", "--url", stub.url, **home) as chat:
        assert chat.rest() == "error: The model 'tow' does not exist. Did you mean two?\r\n"
        assert chat.exit_code() == 1
