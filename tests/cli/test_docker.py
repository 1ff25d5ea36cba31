"""The Dockerfiles, as far as they can be tried without Docker."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from raw_http import app
from serving import WITH_TLS, Serving
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from localinfra.cli import alive
from localinfra.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted(ROOT.glob("Dockerfile*"))
each_file = pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)


def instructions(file: Path) -> list[tuple[str, str]]:
    """Each with its arguments: comments left out, continued lines joined."""
    text = re.sub(r"^#.*\n", "", file.read_text(), flags=re.M).replace("\\\n", " ")
    split = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    return [(name, arguments.strip()) for name, arguments in split]


def of(file: Path, wanted: str) -> list[str]:
    return [arguments for name, arguments in instructions(file) if name == wanted]


@each_file
def test_what_an_image_copies_is_there_and_reaches_its_build(file: Path) -> None:
    copies = [shlex.split(arguments) for arguments in of(file, "COPY")]
    sources = [name for words in copies if "--from=build" not in words for name in words[:-1]]
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert {"pyproject.toml", "models.toml", "localinfra"} <= set(sources)
    for name in sources:
        assert (ROOT / name).exists()
        assert any(f"!{path}" in sent for path in (name, *Path(name).parents))


@each_file
def test_an_image_compiles_the_one_tested_release_of_llama_cpp(file: Path) -> None:
    (run,) = (run for run in of(file, "RUN") if "llama-cpp-python" in run)
    found = re.search(r"grep -o '([^']+)'", run)
    assert found
    pinned = re.findall(found[1], (ROOT / "pyproject.toml").read_text())
    assert len(pinned) == 1 and re.fullmatch(r"llama-cpp-python==\d+\.\d+\.\d+", pinned[0])


@each_file
@pytest.mark.parametrize(
    ("health", "status"), [((200, b'{"status":"ok"}'), 0), ((503, b'{"status":"degraded"}'), 1)]
)
def test_an_image_is_healthy_while_its_server_says_so(
    file: Path, health: tuple[int, bytes], status: int, stub: Any
) -> None:
    stub.health = health
    port = stub.url.rpartition(":")[2]
    (arguments,) = of(file, "HEALTHCHECK")
    program, *words = json.loads(arguments.partition("CMD ")[2])
    assert program == "python3" and of(file, "EXPOSE") == ["8000"]
    command = [sys.executable, *(word.replace("8000", port) for word in words)]
    assert subprocess.run(command).returncode == status
    nobody = [word.replace(port, "1") for word in command]
    assert subprocess.run(nobody).returncode == 1


def test_a_server_that_speaks_tls_is_healthy_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCALINFRA_CONFIG", raising=False)
    serving = Serving(healthy, WITH_TLS)
    try:
        assert alive.main(serving.port)  # although the settings of this folder know nothing of it
    finally:
        serving.close()


async def healthy(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await app(scope, receive, send)
    else:
        status = 200 if scope["path"] == "/health" and scope["scheme"] == "https" else 404
        await Response("{}", status)(scope, receive, send)


@each_file
def test_a_container_without_a_key_ends_and_names_the_variable_for_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("LOCALINFRA_CONFIG", "LOCALINFRA_API_KEYS"):
        monkeypatch.delenv(variable, raising=False)
    (entrypoint,), (command,) = of(file, "ENTRYPOINT"), of(file, "CMD")
    assert json.loads(entrypoint) == ["localinfra"]
    done = CliRunner().invoke(main, json.loads(command))
    assert done.exit_code == 2 and "LOCALINFRA_API_KEYS" in done.output


@each_file
def test_a_container_runs_as_an_ordinary_user_who_owns_the_volume(file: Path) -> None:
    assert of(file, "USER") == ["localinfra"]
    (volume,) = of(file, "VOLUME")
    (run,) = (run for run in of(file, "RUN") if "useradd" in run)
    assert f"install -d -o localinfra -g localinfra {volume}" in run
    for setting in ("HF_HOME", "LOCALINFRA_CACHE", "LOCALINFRA_DATA"):
        assert f"{setting}={volume}/" in of(file, "ENV")[0]
