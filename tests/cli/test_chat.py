"""`localinfra chat`: in a pipe, in a terminal, and with a server of its own."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from localinfra.cli import child
from localinfra.cli.chat import Timing, Usage, printable
from localinfra.cli.main import main
from localinfra.errors import ApiError


def piped(stub: Any, text: str, *options: str) -> Result:
    return CliRunner().invoke(main, ["chat", "--url", stub.url, *options], input=text)


def test_in_a_pipe_each_line_gets_one_answer_and_nothing_else(stub: Any) -> None:
    result = piped(stub, "hello\n\n/etc/passwd is what?\n")
    assert result.exit_code == 0
    assert result.stdout == "<hello>\n</etc/passwd is what?>\n"
    assert result.stderr == ""


def test_the_conversation_so_far_goes_with_each_message(stub: Any) -> None:
    piped(stub, "a\nb\n", "--system", "be brief", "--temperature", "0", "--max-tokens", "9")
    body = stub.bodies[-1]
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<a>"},
        {"role": "user", "content": "b"},
    ]
    assert (body["temperature"], body["max_tokens"], body["stream"]) == (0, 9, True)


def test_options_not_given_are_left_to_the_server(stub: Any) -> None:
    piped(stub, "a\n")
    assert set(stub.bodies[-1]) == {"model", "messages", "stream"}


def test_the_model_is_the_one_named_else_the_first_text_model_that_is_here(stub: Any) -> None:
    piped(stub, "a\n")
    piped(stub, "a\n", "two")
    assert [body["model"] for body in stub.bodies] == ["one", "two"]


def test_a_server_without_text_models_is_told(stub: Any) -> None:
    stub.models = b'{"data":[{"id":"v","kind":"embedding"}]}'
    assert "serves no text model" in piped(stub, "a\n").stderr


def test_an_error_ends_a_pipe_with_its_message(stub: Any) -> None:
    stub.key = "k"
    result = piped(stub, "a\nb\n")
    assert (result.exit_code, len(stub.bodies)) == (1, 1)
    assert result.stderr.startswith("error: Wrong key.")
    assert piped(stub, "a\n", "--key", "k").stdout == "<a>\n"


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\r\x9bc\n\td é 🙂") == "a[2Jbc\n\td é 🙂"


def test_the_summary_counts_speed_from_the_first_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 12.0)
    usage = Usage(prompt_tokens=40, completion_tokens=21)
    told = Timing(started=1.5, first=2.0).summary(usage, "length")
    assert told == (
        "21 tokens · 2.0 tokens/s · first after 0.50 s · 40 read · cut at the limit of tokens"
    )
    assert Timing().summary(usage, "stop") == ""


class Terminal:
    """A chat in a pseudo-terminal, as a person would use it."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            command = [sys.executable, "-m", "localinfra", "chat", *arguments]
            os.execve(sys.executable, command, os.environ | environment | {"TERM": "dumb"})
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def until(self, pattern: str, limit_s: float = 20) -> str:
        """Returns what was shown up to the end of the pattern, which must come."""
        deadline = time.monotonic() + limit_s
        while not (match := re.search(pattern, self.shown)):
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} did not come after {self.shown!r}"
            try:
                self.shown += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:
                raise AssertionError(f"ended after {self.shown!r}") from None
        before, self.shown = self.shown[: match.end()], self.shown[match.end() :]
        return before

    def exit_code(self) -> int:
        try:
            while os.read(self.fd, 65536):
                pass
        except OSError:  # the other end is closed
            pass
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}


def test_a_terminal_shows_counts_and_takes_commands(stub: Any, home: dict[str, str]) -> None:
    terminal = Terminal("--url", stub.url, **home)
    terminal.until("> ")
    terminal.type("one \\\ntwo\n")
    terminal.until(r"<one \r?\ntwo>")
    terminal.until(r"3 tokens .* 7 read \(5 cached\)")
    terminal.type("/retry\n")
    terminal.until(r"<one \r?\ntwo>")
    assert stub.bodies[0] == stub.bodies[1]
    terminal.type("/model\n")
    listed = terminal.until(r"\* one\r?\n  two\r?\n  far \(fetch needed\)")
    assert "vectors" not in listed
    terminal.type("/model two\n/system be kind\n/clear\n/nonsense\nx\n")
    terminal.until("no command")
    terminal.until("<x>")
    assert stub.bodies[-1]["model"] == "two"
    assert stub.bodies[-1]["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "x"},
    ]
    terminal.type("/quit\n")
    assert terminal.exit_code() == 0


def test_ctrl_c_stops_the_answer_and_then_the_chat(stub: Any, home: dict[str, str]) -> None:
    def slow(body: object) -> Iterator[bytes]:
        while True:
            yield b'data: {"choices":[{"delta":{"content":"la "}}]}\n\n'
            time.sleep(0.01)

    stub.stream = slow
    terminal = Terminal("--url", stub.url, **home)
    terminal.until("> ")
    terminal.type("sing\n")
    terminal.until("la la la")
    terminal.type("\x03")
    terminal.until("stopped")
    assert stub.gone.wait(10)
    terminal.until("> ")
    terminal.type("\x03")
    assert terminal.exit_code() == 0


def test_ctrl_d_leaves_and_the_lines_are_remembered(stub: Any, home: dict[str, str]) -> None:
    terminal = Terminal("--url", stub.url, **home)
    terminal.until("> ")
    terminal.type("remember me\n")
    terminal.until("3 tokens")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.exit_code() == 0
    (history,) = Path(home["HOME"]).rglob("chat_history")
    assert "remember me" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


FAKE_SERVER = """
import os, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
started = time.monotonic()
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        assert os.environ["LOCALINFRA_API_KEYS"] in self.headers["Authorization"]
        self.send_response(200 if time.monotonic() > started + 0.5 else 503)
        self.end_headers()
        self.wfile.write(b'{"status":"ok"}')
    def log_message(self, *args): pass
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def started_instead(monkeypatch: pytest.MonkeyPatch, program: str) -> list[subprocess.Popen[bytes]]:
    """Makes the child run a program in the server's place; returns the processes started."""
    processes: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        processes.append(popen([command[0], "-c", program, *command[4:]], **options))
        return processes[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return processes


def test_a_server_of_its_own_is_waited_for_and_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = started_instead(monkeypatch, FAKE_SERVER)
    waits: list[float] = []
    with child.server(None, waits.append) as client:
        assert child.is_healthy(client)
        assert waits == sorted(waits) != []
    assert processes[0].returncode == -signal.SIGTERM


def test_a_server_of_its_own_is_stopped_when_the_chat_is_told_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processes = started_instead(monkeypatch, FAKE_SERVER)
    with pytest.raises(SystemExit), child.server(None, lambda waited_s: None):
        signal.raise_signal(signal.SIGTERM)
    assert processes[0].returncode is not None


def test_a_server_that_does_not_come_up_tells_why(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys; sys.exit('error: models.toml: [server] prot: unknown key')"
    started_instead(monkeypatch, program)
    with pytest.raises(ApiError, match=r"ended with status 1\.\nmodels\.toml: \[server\] prot"):
        with child.server(None, lambda waited_s: None):
            pass
