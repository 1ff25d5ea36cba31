"""`localinfra chat`: in a pipe, in a terminal, and with a server of its own."""

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from localinfra.cli import child
from localinfra.cli.chat import AnswerTiming, ReceivedUsage, printable
from localinfra.cli.main import main
from localinfra.errors import ApiError


def piped(stub: Any, text: str | bytes, *options: str) -> Result:
    return CliRunner().invoke(main, ["chat", "--url", stub.url, *options], input=text)


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("hello\n", "hello"),
        ("a\n\nb\n/etc/passwd is what?\n", "a\n\nb\n/etc/passwd is what?"),
        ("\ufeffwith a BOM\r\n", "with a BOM"),
        ("no end of line", "no end of line"),
    ],
)
def test_piped_text_is_one_message_and_only_the_answer_is_printed(
    stub: Any, text: str, question: str
) -> None:
    result = piped(stub, text)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"<{question}>\n"
    [body] = stub.bodies
    assert body["messages"] == [{"role": "user", "content": question}]


def test_a_prompt_is_answered_once_and_goes_before_piped_text(stub: Any) -> None:
    assert piped(stub, "", "two", "Why?").stdout == "<Why?>\n"
    assert piped(stub, "  \n", "two", "Why?").stdout == "<Why?>\n"
    assert piped(stub, "line 1\nline 2\n", "two", "Explain:").stdout == (
        "<Explain:\n\nline 1\nline 2>\n"
    )


def test_bytes_that_are_not_utf8_are_replaced(stub: Any) -> None:
    assert piped(stub, b"a\xffb").stdout == "<a\ufffdb>\n"


def test_neither_a_prompt_nor_piped_text_is_an_error(stub: Any) -> None:
    result = piped(stub, "\n")
    assert (result.exit_code, stub.bodies) == (1, [])
    assert "There is no prompt" in result.stderr


def test_options_are_sent_with_the_request(stub: Any) -> None:
    piped(stub, "b\n", "--system", "be brief", "--temperature", "0", "--max-tokens", "9")
    body = stub.bodies[-1]
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "b"},
    ]
    assert (body["temperature"], body["max_tokens"], body["stream"]) == (0, 9, True)


def test_options_not_given_are_left_to_the_server(stub: Any) -> None:
    piped(stub, "a\n")
    assert set(stub.bodies[-1]) == {"model", "messages", "stream"}


def test_what_the_models_authors_recommend_is_sent_unless_an_option_says_otherwise(
    stub: Any,
) -> None:
    card = b'{"id":"one","kind":"text","recommended":{"temperature":0.2,"top_p":0.9}}'
    stub.models = b'{"object":"list","data":[' + card + b"]}"
    piped(stub, "a\n")
    assert (stub.bodies[-1]["temperature"], stub.bodies[-1]["top_p"]) == (0.2, 0.9)
    piped(stub, "a\n", "--temperature", "1")
    assert (stub.bodies[-1]["temperature"], stub.bodies[-1]["top_p"]) == (1, 0.9)


def test_the_model_is_the_named_one_else_the_first_text_model_that_is_ready(stub: Any) -> None:
    piped(stub, "a\n")
    piped(stub, "a\n", "two")
    assert [body["model"] for body in stub.bodies] == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tow", "The model 'tow' does not exist. Did you mean two?"),
        ("gpt-4o", "The model 'gpt-4o' does not exist. Served here: far, one, two."),
        ("what is it?", 'To ask once: localinfra chat MODEL "PROMPT".'),
        ("vectors", "vectors is not a chat model (its kind is embedding)."),
        ("absent", "The files of absent are missing: fetch them"),
    ],
)
def test_a_model_that_can_not_answer_is_refused_before_any_request(
    stub: Any, name: str, message: str
) -> None:
    stub.cards["/v1/models/absent"] = b'{"id":"absent","state":"file","remedy":"fetch them"}'
    result = piped(stub, "a\n", name)
    assert (result.exit_code, result.stdout, stub.bodies) == (1, "", [])
    assert message in result.stderr


def test_aliases_and_deployments_are_found(stub: Any) -> None:
    stub.models = b'{"data":[{"id":"org/one","aliases":["one"]}]}'
    stub.cards["/v1/models/deploy_id%3AZx81"] = b'{"id":"org/one:2"}'
    piped(stub, "a\n", "one")
    piped(stub, "a\n", "deploy_id:Zx81")
    assert [body["model"] for body in stub.bodies] == ["org/one", "org/one:2"]


def test_a_server_without_a_chat_model_is_an_error(stub: Any) -> None:
    stub.models = b'{"data":[{"id":"v","kind":"embedding"}]}'
    assert "no chat model is ready" in piped(stub, "a\n").stderr


def test_an_error_is_printed_and_exits_with_status_1(stub: Any) -> None:
    stub.key = "k"
    result = piped(stub, "a\nb\n")
    assert (result.exit_code, result.stdout, len(stub.bodies)) == (1, "", 1)
    assert result.stderr.startswith("error: Wrong key.")
    assert piped(stub, "a\n", "--key", "k").stdout == "<a>\n"


def settings(folder: Path, stub: Any, text: str = "") -> str:
    """A settings file whose server is the stub."""
    host, port = stub.url.removeprefix("http://").split(":")
    path = folder / "models.toml"
    path.write_text(f'[server]\nhost = "{host}"\nport = {port}\n{text}')
    return str(path)


@pytest.mark.parametrize("how", ["option", "environment"])
def test_the_server_of_the_settings_is_used(
    stub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    stub.key = "s3cret"
    path = settings(tmp_path, stub, 'api_keys = ["s3cret"]\n[model.one]\nkind="text"\nsource="x"')
    options = ["--config", path] if how == "option" else []
    if how == "environment":
        monkeypatch.setenv("LOCALINFRA_CONFIG", path)
    result = CliRunner().invoke(main, ["chat", "one", "Hi", *options])
    assert result.stdout == "<Hi>\n", result.stderr


def test_a_server_that_serves_the_models_of_other_settings_is_not_used(
    stub: Any, tmp_path: Path
) -> None:
    path = settings(tmp_path, stub, '[model.mine]\nkind="text"\nsource="x.gguf"')
    result = CliRunner().invoke(main, ["chat", "mine", "Hi", "--config", path])
    assert (result.exit_code, stub.bodies) == (1, [])
    assert "serves other models" in result.stderr
    assert f"there is nothing at {tmp_path}/x.gguf" in result.stderr  # before a server is started


def test_a_key_that_may_use_some_of_the_models_is_enough_for_these(
    stub: Any, tmp_path: Path
) -> None:
    stub.key, stub.models = "restricted", b'{"data":[{"id":"one","kind":"text"}]}'
    text = ['[model.one]\nkind="text"\nsource="x"', '[model.mine]\nkind="text"\nsource="y.gguf"']
    path = settings(tmp_path, stub, "\n".join(text))
    options = ["--config", path, "--key", "restricted"]
    result = CliRunner().invoke(main, ["chat", "one", "Hi", *options])
    assert result.stdout == "<Hi>\n", result.stderr
    assert CliRunner().invoke(main, ["chat", "mine", "Hi", *options]).exit_code == 1


def test_the_name_is_looked_up_before_a_server_is_started(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text('[server]\nport = 0\n[model.mine]\nkind="text"\nsource="x.gguf"')
    result = CliRunner().invoke(main, ["chat", "mien", "Hi", "--config", str(path)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: The model 'mien' does not exist. Did you mean mine?\n"


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\r\x9bc\n\td é 🙂") == "a[2Jbc\n\td é 🙂"


def test_the_summary_counts_speed_from_the_first_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 12.0)
    usage = ReceivedUsage(prompt_tokens=40, completion_tokens=21)
    summary = AnswerTiming(started=1.5, first=2.0).summary(usage, "length")
    assert summary == (
        "21 tokens · 2.0 tokens/s · first after 0.50 s · 40 read · cut off at the token limit"
    )
    assert AnswerTiming().summary(usage, "stop") == ""


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
    """Makes the child run a program instead of the server; returns the processes started."""
    processes: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        processes.append(popen([command[0], "-c", program, *command[4:]], **options))
        return processes[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return processes


def test_a_started_server_is_waited_for_and_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = started_instead(monkeypatch, FAKE_SERVER)
    waits: list[float] = []
    with child.server(None, waits.append) as client:
        assert child.is_healthy(client)
        assert waits == sorted(waits) != []
    assert processes[0].returncode == -signal.SIGTERM


def test_a_started_server_is_stopped_when_sigterm_ends_the_chat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processes = started_instead(monkeypatch, FAKE_SERVER)
    with pytest.raises(SystemExit), child.server(None, lambda waited_s: None):
        signal.raise_signal(signal.SIGTERM)
    assert processes[0].returncode is not None


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys; sys.exit('error: models.toml: [server] prot: unknown key')"
    started_instead(monkeypatch, program)
    with pytest.raises(ApiError, match=r"ended with status 1\.\nmodels\.toml: \[server\] prot"):
        with child.server(None, lambda waited_s: None):
            pass
